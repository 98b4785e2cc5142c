"""What masked autoencoding brings where labels are few:   python -m experiments.few_labels --data=digits

A ViT fills in hidden patches of all images to train on, without labels. Then, for each seed, it learns the classes from
few labelled images, and so does the same ViT from random parameters: same images, steps and recipe. The same command
goes on where it stopped.
"""

import dataclasses
import os

from core_jax.config import require
from core_jax.workdir import write_atomically
from experiments import results
from experiments.console import FAILED, parse_flags, run_command, say
from experiments.finished_runs import ensure_finished
from experiments.tuning_results import mean_text

RECIPE = "--optimizer=adamw --learning_rate=1e-3 --warmup_steps=20 --weight_decay=0.05 --global_batch_size=64"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewLabels:
    """Compares a masked autoencoder's encoder with random parameters, where few images have labels."""

    data: str = "digits"  # images, as for experiments.pretrain
    images_per_class: int = 10  # with a label
    seeds: int = 3  # draws of the labelled images, and of all else
    preset: str = "vit-tiny"  # sizes of the ViT
    flags: str = ""  # more flags of experiments.pretrain for all ViTs: "--image_size=28 --patch_size=4"
    pretraining_steps: int = 2_000  # of the masked autoencoder
    steps: int = 400  # with labels
    workdir: str = "runs/few_labels"  # a folder for each run
    output: str = ""  # Markdown file for the table

    def __post_init__(self):
        for name in ("images_per_class", "seeds", "pretraining_steps", "steps"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected 1 or more")


def main(arguments: list[str]) -> int:
    """Runs what is not there yet, prints and writes the table; returns the exit code."""
    flags = parse_flags(FewLabels, arguments, "What masked autoencoding brings where labels are few.")
    encoder = os.path.join(flags.workdir, "mae")
    everything = [f"--data={flags.data}", *flags.flags.split()]
    hidden = [flags.preset, *everything, "--objective=mae", f"--steps={flags.pretraining_steps}"]
    if ensure_finished("masked autoencoding", encoder, "experiments.pretrain", hidden):
        return FAILED
    starts = {
        "random parameters": ("experiments.pretrain", [flags.preset]),
        "masked autoencoder": ("experiments.finetune", ["--task=image_classification", f"--init={encoder}"]),
    }
    scores: dict[str, list[float]] = {start: [] for start in starts}
    for seed in range(flags.seeds):
        labelled = [f"--images_per_class={flags.images_per_class}", f"--steps={flags.steps}", f"--seed={seed}"]
        for start, (module, own) in starts.items():
            folder = os.path.join(flags.workdir, start.replace(" ", "_"), str(seed))
            same = ["--crop=whole", "--flip=0", "--mixup=0", *RECIPE.split(), *everything, *labelled]
            if ensure_finished(f"{start}, seed {seed}", folder, module, [*own, *same]):
                return FAILED
            scores[start].append((results.load(folder) or {})["accuracy"])
    text = table(flags, scores)
    say(text)
    if flags.output:
        write_atomically(flags.output, text)
    return 0


def table(flags: FewLabels, scores: dict[str, list[float]]) -> str:
    """Accuracy on all held-out images from each start, mean ± standard deviation over seeds, as Markdown."""
    rows = (
        (start, mean_text("accuracy", values), ", ".join(mean_text("accuracy", [value]) for value in values))
        for start, values in scores.items()
    )
    columns = ("from", f"accuracy, {flags.images_per_class} images of each class", "each seed")
    return results.markdown_table(columns, rows)


if __name__ == "__main__":
    run_command(main)
