"""Scores a pretrained BERT on its held-out text:   python -m experiments.evaluate --init=WORKDIR"""

import dataclasses

from bert_jax.pretraining import make_evaluation, open_text, open_trained
from core_jax import distributed
from core_jax.config import require
from core_jax.sharding import parse_mesh
from experiments import results
from experiments.console import StopRequest, parse_flags, report, run_command, say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Prints the held-out scores of a run again."""

    init: str  # work folder of the run
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    silence_seconds: int = 60  # without a sign of life, after which a process of several counts as dead

    def __post_init__(self):
        require(bool(self.init), "--init=: expected the work folder of a run")


def main(arguments: list[str]) -> int:
    """Scores and prints; returns the exit code."""
    flags = parse_flags(Evaluation, arguments, "Scores a pretrained BERT on its held-out text.")
    distributed.initialise(flags.silence_seconds, report)
    distributed.require_same("command line", repr(flags))
    mesh = parse_mesh(flags.mesh)
    trained = open_trained(flags.init, mesh, say)
    text = open_text(trained.config, flags.init)
    evaluate = make_evaluation(trained.model, text, trained.config, mesh)
    with StopRequest().listening() as stopping:
        scores = evaluate(trained.params, stopping)
    if scores is None:
        return stopping.exit_code
    results.show_scores(f"{trained.config.preset} in {flags.init}", scores)
    return 0


if __name__ == "__main__":
    run_command(main)
