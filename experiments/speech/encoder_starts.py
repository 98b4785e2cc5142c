"""Where an encoder of sound comes from: a Whisper, or the work folder of another run."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.checkpoints import check_saved
from core_jax.config import adopt_fields, require
from core_jax.sharding import by_path, parse_mesh, place_like
from core_jax.transformer import stack_layers, unstack_layers
from experiments.speech.hearing_config import Hearing
from experiments.speech.hearing_runs import is_of_hearing, open_hearing, read_hearing
from experiments.speech.starting_points import read_whisper
from vit_jax.audio_encoder import AudioEncoderConfig
from vit_jax.log_mel import FRAMES_A_SECOND

# Of a checkpoint; the other fields of a model say how it is trained and computed.
ARCHITECTURE = ("width", "depth", "heads", "mlp_width", "norm", "norm_epsilon", "gelu", "mel_bands")
POSITIONS = "encoder/positions"  # table of them, which is not learnt


def adopt(config: Any, report: Callable[[str], None]) -> Any:
    """The configuration with the sizes of what --init names.

    Raises:
      UserError: there is no such model, or it does not hear as long windows as are asked for.
    """
    if not config.init:
        return config
    theirs = _sizes(config.init)
    window, asked = theirs.frames / FRAMES_A_SECOND, config.clips.window_seconds
    require(
        asked <= window, f"--window_seconds={asked:g}: {config.init} hears {window:g} seconds; use as many or fewer"
    )
    found = {name: getattr(theirs, name) for name in ARCHITECTURE} | {"maximum_positions": theirs.maximum_positions}
    return adopt_fields(config, {"model": found}, report)


def check_start(init: str) -> None:
    """Raises for an --init that cannot be started from; that of another program was read for its sizes."""
    if init and ":" not in init:
        check_saved(os.path.join(init, "checkpoints"))


def load(config: Hearing, outputs: tuple[str, ...], fresh: PyTree, mesh: Mesh, report: Callable[[str], None]) -> PyTree:
    """The parameters that --init names, on a mesh.

    Args:
      config: with the encoder's sizes.
      outputs: names of the classes or letters.
      fresh: random parameters of the model; the classifier is taken from them, unless a run with the same outputs is
        gone on from.
      mesh: where they go.
      report: is told what is fresh.
    """
    init, found = config.init, {"classifier": by_path({"classifier": fresh["classifier"]})}
    if is_of_hearing(init):
        run = open_hearing(init, mesh, report)
        encoder, scanned = run.params["encoder"], run.config.model.scan_layers
        if run.outputs == outputs and type(run.config) is type(config):
            found["classifier"] = by_path({"classifier": run.params["classifier"]})
            report(f"the classifier is that of {init}")
    else:
        whisper = read_whisper(init, mesh, report)
        encoder, scanned = whisper.params["encoder"], whisper.encoder.scan_layers
    if scanned != config.model.scan_layers:
        change = stack_layers if config.model.scan_layers else unstack_layers
        encoder = encoder | {"encoder": change(encoder["encoder"])}
    params = by_path({"encoder": encoder}) | found["classifier"]
    rows = by_path(fresh)[POSITIONS].shape[0]
    params[POSITIONS] = np.asarray(jax.device_get(params[POSITIONS]))[:rows]  # a shorter window has fewer
    return place_like(fresh, params, mesh)


def _sizes(init: str) -> AudioEncoderConfig:
    if is_of_hearing(init):
        return read_hearing(init).encoder
    return read_whisper(init, parse_mesh("data:-1"), lambda text: None).encoder
