"""Work folders as runs leave them, made in a moment: no model is trained."""

import json
import pathlib
from typing import Any

from core_jax.workdir import Recorder

SHARES = {"step": 0.5, "compile": 0.25, "data_wait": 0.05, "checkpoint": 0.1, "evaluation": 0.05, "other": 0.05}
SETTINGS = {"preset": "bert-tiny", "model": {"width": 16, "dropout": 0.0}, "training": {"steps": 100, "seed": 0}}


def make_run(workdir: pathlib.Path, lines: int = 10, **changes: Any) -> pathlib.Path:
    """A run that logged every second step, and was scored at every tenth; `changes` are settings of its training."""
    workdir.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS | {"training": SETTINGS["training"] | {"workdir": str(workdir)} | changes}
    (workdir / "config.json").write_text(json.dumps(settings))
    log(workdir, range(2, 2 * lines + 1, 2))
    return workdir


def log(workdir: pathlib.Path, steps: range) -> None:
    """Writes lines as `experiments.pretrain` does, behind those that are there."""
    recorder = Recorder(workdir, steps[0] - 1)
    for step in steps:
        recorder.write(step, "train", train_values(step))
        if step % 10 == 0:
            scores = {"loss": 9 / step, "mlm_accuracy": step / 1000, "unigram_accuracy": 0.05}
            recorder.write(step, "held_out", scores)
    recorder.close()


def train_values(step: int) -> dict[str, float]:
    """What a line of training holds."""
    rates = {"steps_per_second": 2.0, "useful_tokens_per_second": 1000.0, "mfu": 0.4}
    shares = {f"{name}_share": share for name, share in SHARES.items()}
    return {"loss": 10 / step, "mlm_accuracy": step / 900, "learning_rate": 1e-4 * step, **rates, **shares}


def finish(workdir: pathlib.Path, steps: int) -> None:
    """Writes what a run ends with."""
    (workdir / "summary.json").write_text(json.dumps({"steps": steps, "loss": 0.1}))
