"""One command each: `python -m experiments.NAME`."""
