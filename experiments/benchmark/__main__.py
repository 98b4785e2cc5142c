"""Measures our speed beside that of `transformers` on this CPU:   python -m experiments.benchmark [PRESET] --flag=value

Both sides compute the same pairs of the same text with the same model and weights, in turns. What counts is useful
tokens, those that are not padding, a second; for a preset of ViT it is images. `--help` lists every flag.
"""

import dataclasses
import importlib.util
import json
import os
import platform
import tempfile
import time
from importlib import metadata

import jax

from bert_jax.config import PRESETS
from bert_jax.gpt_config import SIZES
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.workdir import write_atomically
from experiments.benchmark import report
from experiments.benchmark.generation_material import make_generation_material
from experiments.benchmark.labelled_material import LabelledSource, make_labelled_material
from experiments.benchmark.material import make_material
from experiments.benchmark.modes import GENERATION, IMAGES, LABELLED, TASKS, Mode, Task, parse_modes
from experiments.benchmark.turns import WorkerError, measure
from experiments.benchmark.vit_material import IMAGE_PRESETS, make_vit_material
from experiments.benchmark.workplace import Workplace
from experiments.console import FAILED, parse_flags, print_table, run_command, say, typed_command

PEERS = ("transformers", "none")
LIBRARIES = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measures useful tokens, or images, a second of ours and of transformers, on this CPU."""

    preset: str = "bert-base"  # size of the model, such as bert-tiny for a quick look, vit-b16, or gpt2-small
    sequence_lengths: str = "128,512"  # tokens of our rows, and the most of a pair; images have their preset's size
    generation_batches: str = "1,16"  # of a GPT, which is measured in generation alone: prompts at once
    rounds: int = 3  # turns of every mode; medians and ranges are over them
    batch_size: int = 1024  # positions of our rows in a step; the peer's batch is the very pairs that stand in them
    tasks: str = "training,inference"  # what is measured: these, finetuning and embedding
    init: str = ""  # hf:DIR: weights and vocabulary for finetuning and embedding; by default random ones of the preset
    texts: int = 10_000  # to embed at most; each round computes a part of them
    # engine and type, with commas: ours-bfloat16, ours-float32, eager-float32, eager-bfloat16, compile-float32,
    # compile-bfloat16; by default all, which for bert-base needs some 20 GB of memory
    modes: str = ""
    peer: str = "transformers"  # "none" measures ours alone
    data: str = "sample"  # text, as for pretraining; for finetuning and embedding with labels: as for these
    text_folder: str = "runs/benchmark"  # keeps vocabulary and tokenised text of each preset
    output: str = ""  # file for all figures, as JSON

    def __post_init__(self):
        presets = (*PRESETS, *IMAGE_PRESETS, *SIZES)
        require(self.preset in presets, f"--preset={self.preset}: expected one of {', '.join(presets)}")
        require(self.rounds > 0, f"--rounds={self.rounds}: expected 1 or more")
        require(self.batch_size > 0, f"--batch_size={self.batch_size}: expected 1 or more")
        require(self.peer in PEERS, f"--peer={self.peer}: expected one of {', '.join(PEERS)}")
        require(
            all(part.isdigit() and int(part) >= 8 for part in self.sequence_lengths.split(",")),
            f"--sequence_lengths={self.sequence_lengths}: expected numbers of 8 or more, such as 128,512",
        )
        require(
            set(self.tasks.split(",")) <= set(TASKS),
            f"--tasks={self.tasks}: expected some of {', '.join(TASKS)}, with a comma between",
        )
        require(
            all(part.isdigit() and int(part) > 0 for part in self.generation_batches.split(",")),
            f"--generation_batches={self.generation_batches}: expected numbers of 1 or more, such as 1,16",
        )
        require(
            not self.is_of_images or not set(self.tasks.split(",")) & set(LABELLED),
            f"--tasks={self.tasks}: expected training, inference or both for --preset={self.preset}",
        )
        require(self.texts > 0, f"--texts={self.texts}: expected 1 or more")
        foreign = self.init.startswith("hf:") and set(self.tasks.split(",")) <= set(LABELLED)
        require(
            foreign or not self.init,
            f"--init={self.init}: expected hf:DIR, together with --tasks={','.join(LABELLED)}",
        )

    @property
    def is_of_images(self) -> bool:
        """Whether the model is a ViT."""
        return self.preset in IMAGE_PRESETS

    @property
    def is_generation(self) -> bool:
        """Whether the model is a GPT."""
        return self.preset in SIZES

    @property
    def lengths(self) -> list[int]:
        """`sequence_lengths` as numbers, the pixels of an image's side, or the prompts of a batch."""
        if self.is_generation:
            return [int(part) for part in self.generation_batches.split(",")]
        if self.is_of_images:
            return [IMAGE_PRESETS[self.preset].model.height]
        return [int(part) for part in self.sequence_lengths.split(",")]

    def chosen_tasks(self) -> list[Task]:
        """`tasks` in our order, of images those of images; a GPT has one."""
        if self.is_generation:
            return [GENERATION]
        wanted = self.tasks.split(",")
        if self.is_of_images:
            return [task for task in IMAGES if task.removeprefix("image ") in wanted]
        return [task for task in TASKS if task in wanted]


def main(arguments: list[str]) -> int:
    """Measures and prints; returns the exit code."""
    if arguments and not arguments[0].startswith("-"):
        arguments = [f"--preset={arguments[0]}", *arguments[1:]]
    flags = parse_flags(Benchmark, arguments, "Measures our speed beside that of transformers, on this CPU.")
    modes = parse_modes(flags.modes, flags.peer)
    if any(not mode.is_ours for mode in modes):
        check_peer()
    jax.config.update("jax_platforms", "cpu")  # what is measured, whatever else is here
    start, cells = time.perf_counter(), []
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        prepare(flags, folder)
        for task in flags.chosen_tasks():
            for length in flags.lengths:
                cell = measure_cell(modes, Workplace(folder, task, length), flags.rounds)
                if cell is None:
                    return FAILED
                cells.append(cell)
    for cell in cells:
        say(report.verdict(cell))
    say(f"{describe_machine()}; {describe_versions()}; {time.perf_counter() - start:.0f} s in all")
    if flags.output:
        write_atomically(flags.output, json.dumps(figures(cells), indent=2) + "\n")
    return 0


def prepare(flags: Benchmark, folder: str) -> None:
    """Writes what the processes read."""
    if flags.is_of_images:
        peer = flags.peer != "none"
        make_vit_material(folder, IMAGE_PRESETS[flags.preset], flags.batch_size, peer=peer)
        return
    if flags.is_generation:
        make_generation_material(folder, SIZES[flags.preset], flags.lengths)
        return
    text_folder = os.path.join(flags.text_folder, flags.preset)
    os.makedirs(text_folder, exist_ok=True)
    labelled: list[Task] = [task for task in flags.chosen_tasks() if task in LABELLED]
    if labelled:
        source = LabelledSource(flags.preset, flags.init, flags.data, flags.texts)
        make_labelled_material(folder, text_folder, source, labelled, flags.lengths, say)
    if len(labelled) < len(flags.chosen_tasks()):
        make_material(folder, text_folder, flags.preset, flags.data, flags.lengths, flags.batch_size, say)


def measure_cell(modes: list[Mode], work: Workplace, rounds: int) -> report.Cell | None:
    """Measures one task at one length and prints its table; None where a process failed or the sides disagree."""
    try:
        cell = measure(modes, work, rounds, cores(), say)
    except WorkerError as error:
        say(f"error: {error}")
        return None
    disagreements = cell.disagreements()
    if disagreements:
        say("\n".join(["error: no ratios, since the sides do not compute the same:", *disagreements]))
        return None
    unit = "at once" if work.task == GENERATION else "pixels" if work.task in IMAGES else "tokens"
    size = f"{work.sequence_length} {unit}"
    print_table(f"{work.task}, {size}", report.columns(cell), report.table(cell))
    return cell


def check_peer() -> None:
    """Refuses where the peer is not installed.

    Raises:
      UserError: says how to install it, or to do without.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the peer is not installed ({' and '.join(missing)} missing). Type: pip install -e '.[parity]', "
            "or measure ours alone with --peer=none"
        )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> str:
    """The processor and its cores."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {cores()} cores"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that are there."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is not None:
            found[name] = metadata.version(name)
    return found


def describe_versions() -> str:
    """The versions on one line."""
    return ", ".join(f"{name} {version}" for name, version in versions().items())


def figures(cells: list[report.Cell]) -> dict:
    """All that --output holds."""
    return {
        "device": describe_machine(),
        "versions": versions(),
        "command": typed_command(),
        "tolerances": report.TOLERANCES,
        "cells": [report.as_json(cell) for cell in cells],
    }


if __name__ == "__main__":
    run_command(main)
