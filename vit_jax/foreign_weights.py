"""Where ViTs of other programs lie: hf:DIR of `transformers`, npz:FILE of google-research, timm:FILE.

What a file does not tell may stand behind its name: timm:FILE?heads=4&image_size=24x40.
"""

import pathlib
import re

from core_jax.model_folders import read_fields
from vit_jax.config import VitConfig
from vit_jax.numpy_weights import read_npz
from vit_jax.peer_names import FAMILIES
from vit_jax.position_tables import Method
from vit_jax.timm_weights import read_timm
from vit_jax.weights import PretrainedVit, read_hf

# What files without a config.json do not tell: GELU, LayerNorm's epsilon, and the small numbers of a stem.
OPTIONS = re.compile(r"\?((?:heads=\d+|image_size=[\dx]+)(?:&(?:heads=\d+|image_size=[\dx]+))*)$")
UNSAID = {"npz": ("tanh", 1e-6, "google"), "timm": ("erf", 1e-6, "timm")}


def split_place(place: str) -> tuple[str, pathlib.Path]:
    """`npz:FILE` -> its kind and path; the kind of a work folder is empty."""
    kind, colon, path = place.partition(":")
    if not colon or kind not in ("hf", *UNSAID):
        return "", pathlib.Path(place).expanduser()
    return kind, pathlib.Path(OPTIONS.sub("", path)).expanduser()


def options_of(place: str) -> dict[str, str]:
    """What stands behind the name of a file: its heads, the size of its images."""
    found = OPTIONS.search(place)
    return dict(option.split("=") for option in found[1].split("&")) if found else {}


def method_of(place: str, config: VitConfig) -> Method:
    """How the program that a ViT is from interpolates its positions; a work folder's are as those of `transformers`."""
    kind, _ = split_place(place)
    if kind == "npz":
        return "bilinear"
    return "antialiased" if kind == "timm" or (kind == "hf" and config.registers) else "bicubic"


def is_foreign(place: str) -> bool:
    """Whether a place holds a ViT of another program, as far as its kind or its config.json tells."""
    kind, path = split_place(place)
    if kind != "hf":
        return kind in UNSAID
    file = path / "config.json"  # which may be that of any model
    return file.exists() and read_fields(file, "a model").get("model_type") in FAMILIES


def read_foreign(place: str, heads: int = 0, image_size: str = "") -> PretrainedVit:
    """A ViT from hf:DIR, npz:FILE or timm:FILE.

    Args:
      place: where it is.
      heads: of each layer, for timm:FILE; 0: as in the published model of its width.
      image_size: pixels, for files that do not tell; empty: square.
    Raises:
      UserError: it is not there, damaged, or no ViT.
    """
    kind, path = split_place(place)
    options = options_of(place)
    heads, image_size = int(options.get("heads", heads)), options.get("image_size", image_size)
    if kind == "npz":
        return read_npz(path, image_size)
    return read_timm(path, heads, image_size) if kind == "timm" else read_hf(path)
