"""Our fine-tuning beside that of `transformers`:   python -m experiments.compare_tuning TASKS --init=hf:DIR

TASKS is what `experiments.sample_tasks` has written. Every run has a folder of its own below --workdir; the same
command goes on where it stopped, and makes the table of what there is. It needs the `parity` extra.
"""

import dataclasses
import os
from typing import Annotated

import tyro

from core_jax.config import require
from core_jax.workdir import write_atomically
from experiments import results
from experiments.console import FAILED, parse_flags, run_command, say
from experiments.finished_runs import ensure_finished
from experiments.tuning_results import mean_text

SIDES = {"ours": "experiments.finetune", "transformers": "experiments.tuning_peer"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one set of texts is fine-tuned on."""

    flags: str
    scores: tuple[str, ...]  # that the table shows, of the test examples
    title: str


# The experiment that this project began with.
REFERENCE = "--task=classification --epochs=10 --learning_rate=1e-5 --weight_decay=0 --warmup_fraction=0"

RECIPES = {
    "topics": Recipe(
        "--task=classification --sequence_length=64 --epochs=2 --learning_rate=5e-5", ("accuracy", "f1"), "wiki topics"
    ),
    "sentiment": Recipe(
        "--task=classification --sequence_length=64 --epochs=1 --learning_rate=5e-5",
        ("accuracy", "f1"),
        "sentiment of film reviews",
    ),
    "entities": Recipe(
        "--task=token --text_column=tokens --label_column=tags --sequence_length=64 --epochs=5 --learning_rate=2e-4",
        ("f1", "accuracy"),
        "entities in tweets",
    ),
    "descriptions": Recipe(
        "--task=span --text_column=context --second_text_column=question --label_column=answers "
        "--sequence_length=128 --epochs=3 --learning_rate=2e-4",
        ("f1", "exact_match"),
        "spans that describe",
    ),
    "reference": Recipe(f"{REFERENCE} --sequence_length=64", ("accuracy", "f1"), "sentiment, Adam at 1e-5, 10 epochs"),
    "reference_topics": Recipe(
        f"{REFERENCE} --sequence_length=32",  # of 64 it would take twice as long
        ("accuracy", "f1"),
        "first 32 tokens of wiki topics, Adam at 1e-5, 10 epochs",
    ),
}
FOLDERS = {"reference": "sentiment", "reference_topics": "topics"}  # of the texts, where not named as the recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Fine-tunes both sides with the same recipe and seeds, and writes the table of their test scores."""

    tasks: Annotated[str, tyro.conf.Positional]  # folder that experiments.sample_tasks has written
    init: str  # hf:DIR to start from
    recipes: str = ",".join(RECIPES)  # which, with commas between
    seeds: int = 5  # runs of each recipe and side
    workdir: str = "runs/compare_tuning"  # a folder for each run
    output: str = ""  # Markdown file for the table

    def __post_init__(self):
        unknown = [name for name in self.recipes.split(",") if name not in RECIPES]
        require(not unknown, f"--recipes={self.recipes}: no {unknown[:1]}; there are {', '.join(RECIPES)}")
        require(self.seeds > 0, f"--seeds={self.seeds}: expected 1 or more")


def main(arguments: list[str]) -> int:
    """Runs what is not there yet, prints and writes the table; returns the exit code."""
    flags = parse_flags(Comparison, arguments, "Our fine-tuning beside that of transformers.")
    for seed in range(flags.seeds):
        for name in flags.recipes.split(","):
            for side, module in SIDES.items():
                folder = os.path.join(flags.workdir, name, side, str(seed))
                if ensure_finished(f"{name}, {side}, seed {seed}", folder, module, settings(name, flags, seed)):
                    return FAILED
    text = table(flags.workdir, flags.seeds)
    say(text)
    if flags.output:
        write_atomically(flags.output, text)
    return 0


def settings(name: str, flags: Comparison, seed: int) -> list[str]:
    """The flags of one run, but for its folder."""
    texts = os.path.join(flags.tasks, FOLDERS.get(name, name))
    places = {"data": "train", "validation_data": "validation", "test_data": "test"}
    data = [f"--{flag}=jsonl:{texts}/{split}.jsonl" for flag, split in places.items()]
    return [*data, *RECIPES[name].flags.split(), f"--init={flags.init}", f"--seed={seed}"]


def table(workdir: str, seeds: int) -> str:
    """Test scores of both sides, mean ± standard deviation over the seeds that both have run, as Markdown."""
    rows = []
    for name, recipe in RECIPES.items():
        found = {
            side: {seed: results.load(os.path.join(workdir, name, side, str(seed))) for seed in range(seeds)}
            for side in SIDES
        }
        pairs = [pair for pair in zip(*(runs.values() for runs in found.values()), strict=True) if None not in pair]
        for score in recipe.scores if pairs else ():
            tests = ([run["others"]["test"][score] for run in runs if run] for runs in zip(*pairs, strict=True))
            cells = (mean_text(score, values) for values in tests)
            rows.append((recipe.title, score.replace("_", " "), str(len(pairs)), *cells))
    return results.markdown_table(("task", "score", "seeds", *SIDES), rows)


if __name__ == "__main__":
    run_command(main)
