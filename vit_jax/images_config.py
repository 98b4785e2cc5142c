"""How images are read, cut and changed."""

import dataclasses
import re
from typing import Literal

from core_jax.config import require

Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Normalization = Literal["half", "imagenet"]
Colours = tuple[float, ...]  # of each channel, where black is 0 and white 1
# Mean and deviation of each channel.
NORMALIZATIONS: dict[Normalization, tuple[Colours, Colours]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """The images to learn from and to score on, and how the model sees them."""

    # digits (of scikit-learn), fashion_mnist or fashion_mnist:DIR, tfds:NAME[/CONFIG], or images:DIR (a folder for
    # each class)
    data: str = "digits"
    validation_data: str = ""  # images:DIR to score on; by default what --data brings for that, or a share of it
    data_split: str = "train"  # split of tfds:
    validation_split: str = ""  # split of tfds: to score on; by default validation or test, where there is one
    data_dir: str = ""  # where TFDS keeps its datasets; by default where TFDS itself looks
    held_out: float = 0.2  # share of the images to score on, by a hash of each, where the data brings no others
    # images of each class to train on, drawn by --seed: what a model learns from few labels; 0: all there are
    images_per_class: int = 0
    image_column: str = ""  # column of tfds: with the images; by default the only one that has any
    label_column: str = ""  # column of tfds: with the classes; by default the only one that has any
    # what becomes of files that cannot be read: the run ends, or they count for nothing and are listed
    bad_images: Literal["fail", "skip"] = "fail"
    # mean and deviation taken off the colours: one half each (from -1 to 1), or those of ImageNet
    normalization: Normalization = "half"
    # what is cut out of an image to train on: all of it, whatever its shape, or a random part of random shape, which
    # Szegedy et al. 2014 trained Inception on
    crop: Literal["whole", "inception"] = "whole"
    least_area: float = 0.08  # share of the area that --crop=inception keeps at least
    flip: float = 0.0  # probability that an image to train on is mirrored
    crop_padding: int = 0  # black pixels around an image to train on, before its size is cut out at a random place
    # operations on each image to train on, how strong they are, from 0 to 10, and, if given, the deviation of a normal
    # that the strength of each is drawn from: 2,10 or 2,9,0.5; empty: none
    randaugment: str = ""
    # times that an image to train on stands in a batch, changed in another way each time ("repeated augmentation",
    # Hoffer et al. 2019, https://arxiv.org/abs/1901.09335)
    repeats: int = 1
    random_erasing: float = 0.0  # probability that a random box of an image to train on is filled with noise
    train_interpolation: Interpolation = "bilinear"  # when images to train on are resized
    interpolation: Interpolation = "bicubic"  # when images to score on are resized
    # share of the shorter side that images to score on keep, from their middle; 0: all of both, whatever the shape
    eval_crop: float = 0.0
    eval_resize: int = 0  # pixels of the shorter side before the middle is cut out; 0: what --eval_crop asks for

    def __post_init__(self):
        for name in ("held_out", "least_area"):
            share = getattr(self, name)
            require(0 < share <= 1, f"--{name}={share}: expected a share, more than 0 and at most 1")
        require(self.held_out < 1, "--held_out=1.0 leaves nothing to train on")
        for name in ("flip", "random_erasing", "eval_crop"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"--{name}={share}: expected a number from 0 to 1")
        require(self.repeats > 0, f"--repeats={self.repeats}: expected 1 or more")
        require(self.images_per_class >= 0, f"--images_per_class={self.images_per_class}: expected 0 (all) or more")
        for name in ("crop_padding", "eval_resize"):
            require(getattr(self, name) >= 0, f"--{name}={getattr(self, name)}: expected 0 or more pixels")
        require(
            not self.randaugment or re.fullmatch(r"\d+,(\d|10)(,\d+(\.\d+)?)?", self.randaugment) is not None,
            f"--randaugment={self.randaugment}: expected the number of operations, their strength from 0 to 10 and, if "
            "it is to vary, its deviation, with commas between, such as 2,10 or 2,9,0.5",
        )
        require(
            not (self.eval_crop and self.eval_resize),
            f"--eval_crop={self.eval_crop} and --eval_resize={self.eval_resize} both say how large images are before "
            "their middle is cut out: give one",
        )
