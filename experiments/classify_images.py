"""What `experiments.predict` does with a ViT: names the classes of pictures, and shows where it looks.

Axes: B pictures, H x W pixels, C channels, K classes.
"""

import collections
import functools
import json
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from core_jax.config import require
from core_jax.errors import UserError
from core_jax.pictures import overlay_picture
from core_jax.sharding import parse_mesh
from experiments.console import report, say
from vit_jax.attention_rollout import attention_rollout
from vit_jax.foreign_classifiers import open_classifier
from vit_jax.image_files import open_image
from vit_jax.image_transforms import View, evaluation_image
from vit_jax.normalization import normalised
from vit_jax.pretraining import Trained

AT_ONCE = 32  # pictures


def classify(init: str, paths: Sequence[str], top: int, attention: str) -> None:
    """Prints a line of JSON for each picture: its best class and the probabilities of the best few.

    Args:
      init: work folder of a run, or a ViT of another program.
      paths: of the pictures.
      top: classes whose probabilities are given.
      attention: folder for drawings of where the model looks; empty: none.
    Raises:
      UserError: a picture is not there or cannot be read, or the folder holds no run.
    """
    require(bool(paths), "no picture given; type the path of one, such as picture.png")
    files = [pathlib.Path(path).expanduser() for path in paths]
    missing = [str(file) for file in files if not file.is_file()]
    require(not missing, f"no such file: {', '.join(missing)}")
    trained = open_classifier(init, parse_mesh("data:1", devices=jax.local_devices()[:1]), say)
    names = drawing_names(files)
    drawings = {file: os.path.join(attention, f"{name}-attention.png") for file, name in names.items()}
    for start in range(0, len(files), AT_ONCE):
        part = files[start : start + AT_ONCE]
        pixels = np.stack([seen(file, trained) for file in part])
        normalization, channels = trained.config.images.normalization, trained.config.model.channels
        images = np.asarray(normalised(pixels, normalization, channels))
        for file, shares in zip(part, probabilities(trained, images), strict=True):
            best = np.argsort(-shares, kind="stable")[:top].tolist()
            named = {trained.classes[number]: round(float(shares[number]), 6) for number in best}
            report(json.dumps({"picture": str(file), "label": next(iter(named)), "probabilities": named}))
        if attention:
            draw([drawings[file] for file in part], part, pixels, images, trained)


def seen(file: pathlib.Path, trained: Trained) -> UInt8[np.ndarray, "H W C"]:
    """What the model sees of a picture when it is scored, colours from 0 to 255."""
    model = trained.config.model
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    view = View(model.height, model.width_of_image, model.channels)
    return evaluation_image(open_image(content, str(file)), trained.config.images, view)


def probabilities(trained: Trained, images: Float[np.ndarray, "B H W C"]) -> Float[np.ndarray, "B K"]:
    """Of each class, those of the names alone."""
    logits = jax.jit(trained.model.apply)({"params": trained.params}, images)
    logits = jnp.asarray(logits, jnp.float32)[:, : len(trained.classes)]
    is_softmax = trained.config.supervision.loss == "softmax"
    return np.asarray(jax.nn.softmax(logits) if is_softmax else jax.nn.sigmoid(logits))


def drawing_names(files: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
    """A name for the drawing of each picture: its stem, or where others have that too, as much as tells it apart.

    Args:
      files: the pictures, of which one may be there several times.
    Returns:
      {file: name}; of a/cat.png and b/cat.png these are a-cat.png and b-cat.png, of cat.png and cat.jpg themselves.
    """
    different = list(dict.fromkeys(files))
    names = {file: file.stem for file in different}
    for depth in range(1, 1 + max((len(file.absolute().parts) for file in different), default=0)):
        for file in _sharing(names):
            names[file] = "-".join(part.strip(os.sep) for part in file.absolute().parts[-depth:])
    for number, file in enumerate(_sharing(names)):  # a-b/c.png and a/b-c.png
        names[file] = f"{names[file]}-{number + 1}"
    return names


def _sharing(names: dict[pathlib.Path, str]) -> list[pathlib.Path]:
    """The files whose name another has too, also where large and small letters are the same."""
    counts = collections.Counter(name.casefold() for name in names.values())
    return [file for file, name in names.items() if counts[name.casefold()] > 1]


def draw(
    paths: Sequence[str],
    files: Sequence[pathlib.Path],
    pixels: UInt8[np.ndarray, "B H W C"],
    images: Float[np.ndarray, "B H W C"],
    trained: Trained,
) -> None:
    """Draws into files the attention rollout over what the model sees of pictures, as colours and normalised."""
    os.makedirs(os.path.dirname(paths[0]), exist_ok=True)
    heat = np.asarray(jax.jit(functools.partial(attention_rollout, trained.model))(trained.params, images))
    for path, file, colours, flows in zip(paths, files, pixels, heat, strict=True):
        overlay_picture(path, colours / 255, flows, file.name)
        say(f"attention: {path}")
