"""What `experiments.predict` does with an encoder of sound: names the class of recordings, or spells what is said."""

import json
import os
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core_jax.config import require
from core_jax.sharding import parse_mesh
from experiments.console import report, say
from experiments.speech.hearing_pictures import draw_hearing
from experiments.speech.hearing_runs import TrainedHearing, open_hearing
from experiments.speech.speller import Speller
from vit_jax.audio_clips import spectrogram
from vit_jax.audio_files import read_audio

AT_ONCE = 8  # windows


def hear(init: str, paths: Sequence[str], top: int, attention: str) -> None:
    """Prints a line of JSON for each recording: its class and the probabilities of the best few, or its letters.

    Args:
      init: work folder of a run.
      paths: of the recordings; of classes the first window of each is heard.
      top: classes whose probabilities are given.
      attention: folder for drawings of where in each the model listens; empty: none.
    Raises:
      UserError: a recording is not there or cannot be read, or the folder holds no run.
    """
    require(bool(paths), "no recording given; type the path of one, such as clip.wav")
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    trained = open_hearing(init, mesh, say)
    model = trained.model
    spells = model.head == "position"
    speller = Speller(model, trained.outputs, mesh, min(AT_ONCE, len(paths)))
    config = model.config
    for path in paths:
        window = spectrogram(read_audio(path), config.frames, config.mel_bands)
        found = {"text": speller.spell(trained.params, [path])[0]} if spells else named(trained, window, top)
        report(json.dumps({"audio": path} | found, ensure_ascii=False))
        if attention:
            os.makedirs(attention, exist_ok=True)
            file = os.path.join(attention, f"{pathlib.Path(path).stem}-heard.png")
            example = {"spectrograms": window[0], "frames": np.int32(window[1])}
            draw_hearing(file, model, trained.params, example, trained.outputs)
            say(f"attention: {file}")


def named(trained: TrainedHearing, window: tuple[Float[np.ndarray, "F M"], int], top: int) -> dict[str, object]:
    """The best class of a window, and the probabilities of the best few."""
    inputs = jnp.asarray(window[0])[None], jnp.asarray([window[1]])
    logits = jnp.asarray(jax.jit(trained.model.apply)({"params": trained.params}, *inputs), jnp.float32)[0]
    shares = np.asarray(jax.nn.softmax(logits))
    best = np.argsort(-shares, kind="stable")[:top].tolist()
    probabilities = {trained.outputs[number]: round(float(shares[number]), 6) for number in best}
    return {"label": next(iter(probabilities)), "probabilities": probabilities}
