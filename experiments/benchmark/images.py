"""Measures how many images one core reads, beside a plain loader:   python -m experiments.benchmark.images --flag=value

Both sides read the same JPEGs, cut the same random parts out, resize and mirror them and put them together as batches,
in turns and on one thread. Each leaves them as its training step takes them: ours as bytes, which are normalised on the
device; a plain loader's as normalised float32. What counts is images in a second of the processor's time.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core_jax.config import require
from core_jax.data import Examples
from core_jax.errors import UserError
from core_jax.workdir import write_atomically
from experiments.benchmark.__main__ import describe_machine, describe_versions
from experiments.benchmark.report import describe_ratios
from experiments.console import FAILED, parse_flags, print_table, run_command, say
from vit_jax.image_sets import open_image_set
from vit_jax.images_config import ImagesConfig
from vit_jax.normalization import normalised

SEED = 0
COARSE = 16  # pixels between which colours of a photo change
GRAIN = 6.0  # deviation of what is added to each pixel, of 255, as a camera's sensor does
QUALITY = 90  # of JPEG: with the grain, photos of 500 x 375 take 60 kB
# Mean difference from the peer's normalised values: JPEGs that are decoded smaller are not the same to the bit.
TOLERANCE = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesBenchmark:
    """Measures images a second of one core."""

    photo_size: str = "500x375"  # pixels of the photos, across and down; a typical size of ImageNet
    photos: int = 128  # how many are made
    side: int = 224  # pixels of an image as the model sees it
    batch_size: int = 32  # images that are put together
    rounds: int = 5  # turns of both sides; medians and ranges are over them
    peer: str = "torch"  # "none" measures ours alone
    output: str = ""  # file for all figures, as JSON

    def __post_init__(self):
        parts = self.photo_size.split("x")
        require(
            len(parts) == 2 and all(part.isdigit() and int(part) > 0 for part in parts),
            f"--photo_size={self.photo_size}: expected pixels across and down, such as 500x375",
        )
        for name in ("photos", "side", "batch_size", "rounds"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.photos >= self.batch_size, f"--photos={self.photos}: expected --batch_size or more")
        require(self.peer in ("torch", "none"), f"--peer={self.peer}: expected torch or none")


def main(arguments: list[str]) -> int:
    """Measures and prints; returns the exit code."""
    flags = parse_flags(ImagesBenchmark, arguments, "Measures images a second of one core, beside a plain loader.")
    if flags.peer == "torch" and importlib.util.find_spec("torch") is None:
        raise UserError(
            "the peer is not installed. Type: pip install -e '.[parity]', or measure ours alone with --peer=none"
        )
    with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
        files = write_photos(folder, flags)
        rates, difference = measure(folder, files, flags)
    if not difference <= TOLERANCE:
        say(f"error: no ratio, since the sides do not compute the same: they differ by {difference:.3f} in the mean")
        return FAILED
    show(rates, difference, flags)
    if flags.output:
        figures = {"images_per_core_second": rates, "difference": difference, "device": describe_machine()}
        write_atomically(flags.output, json.dumps(figures | dataclasses.asdict(flags), indent=2) + "\n")
    return 0


def write_photos(folder: str, flags: ImagesBenchmark) -> list[str]:
    """Makes JPEGs of random smooth colours with grain, in two class folders.

    Returns:
      Their paths, in the order in which they are read as examples.
    """
    width, height = map(int, flags.photo_size.split("x"))
    random, files = np.random.default_rng(SEED), []
    for number in range(flags.photos):
        coarse = random.integers(0, 256, (-(-height // COARSE), -(-width // COARSE), 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grainy = np.asarray(smooth) + GRAIN * random.standard_normal((height, width, 3), np.float32)
        file = os.path.join(folder, "first" if number < flags.photos // 2 else "second", f"{number:06}.jpg")
        os.makedirs(os.path.dirname(file), exist_ok=True)
        Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(file, quality=QUALITY)
        files.append(file)
    return files


def measure(folder: str, files: list[str], flags: ImagesBenchmark) -> tuple[dict[str, list[float]], float]:
    """Reads all photos in turns, each round with other random parts.

    Args:
      folder: with the class folders.
      files: in them.
      flags: say how often.
    Returns:
      Images in a second of the processor's time, by side and round; and the mean difference of the first batches.
    """
    data = f"images:{folder}"
    images = ImagesConfig(data=data, validation_data=data, crop="inception", flip=0.5, normalization="imagenet")
    examples = open_image_set(images, height=flags.side, width=flags.side, channels=3, seed=SEED).train
    sides: dict[str, Callable] = {"ours": functools.partial(our_batch, examples)}
    difference, first = 0.0, range(flags.batch_size)
    if flags.peer == "torch":
        from experiments.benchmark.peer_images import PlainImages, use_one_thread

        use_one_thread()
        plain = PlainImages(files, images, flags.side, SEED)
        sides["torch"] = plain.batch
        seen = normalised(our_batch(examples, 0, first), images.normalization, 3)
        difference = float(np.abs(seen - plain.pixels(0, first)).mean())
    rates: dict[str, list[float]] = {name: [] for name in sides}
    batches = [range(start, start + flags.batch_size) for start in range(0, flags.photos, flags.batch_size)]
    for epoch in range(flags.rounds):
        for name in sorted(sides, reverse=epoch % 2 == 1):  # so that no side always follows the other
            start = time.process_time()
            for indices in batches:
                sides[name](epoch, [index % flags.photos for index in indices])
            rates[name].append(len(batches) * flags.batch_size / (time.process_time() - start))
    return rates, difference


def our_batch(examples: Examples, epoch: int, indices: range | list[int]) -> UInt8[np.ndarray, "N H W C"]:
    """Some examples, put together as Grain does it."""
    return np.stack([examples.example(epoch, index)["images"] for index in indices])


def show(rates: dict[str, list[float]], difference: float, flags: ImagesBenchmark) -> None:
    """Prints the table."""
    rows = [
        (
            name,
            f"{statistics.median(found):,.0f}",
            describe_ratios([ours / other for ours, other in zip(rates["ours"], found, strict=True)]),
        )
        for name, found in rates.items()
    ]
    title = f"images of {flags.side} pixels from JPEGs of {flags.photo_size}, one core"
    print_table(title, ("side", "images/s", "ours / this"), rows)
    say(f"mean difference of the normalised values: {difference:.1e}")
    say(f"{describe_machine()}; {describe_versions()}")


if __name__ == "__main__":
    run_command(main)
