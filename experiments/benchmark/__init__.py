"""Our speed beside that of the peer library: `python -m experiments.benchmark`."""
