"""Carries a ViT over to the files of other programs, or from them; `experiments.convert` is the command."""

import dataclasses
import pathlib
import tempfile

import jax

from core_jax.config import require
from core_jax.model_folders import check_free
from core_jax.sharding import parse_mesh
from experiments import vit_verification
from experiments.console import print_table, say
from experiments.verification import DIFFERENT, LARGEST, import_peer
from vit_jax.foreign_weights import UNSAID, read_foreign, split_place
from vit_jax.images_config import NORMALIZATIONS
from vit_jax.numpy_weights import write_npz
from vit_jax.peer_config import KIND, family_of
from vit_jax.starting_weights import open_start
from vit_jax.timm_weights import write_timm
from vit_jax.weights import PretrainedVit, write_hf


def convert(source: str, target: str, *, verifies: bool, heads: int, image_size: str) -> int:
    """Writes a ViT to another place, and compares it with the peer if asked to; returns the exit code.

    Args:
      source: hf:DIR, npz:FILE, timm:FILE or the work folder of a run.
      target: hf:DIR, npz:FILE or timm:FILE, to make.
      verifies: whether to compare.
      heads, image_size: as for `read_foreign`.
    Raises:
      UserError: the source cannot be read, or the target not be written.
    """
    kind, path = split_place(target)
    require(kind != "", f"{target}: a ViT is written to hf:DIR, npz:FILE or timm:FILE; type one of them")
    if kind == "hf":
        check_free(path)
    model = read(source, heads, image_size)
    if verifies:
        import_peer()
        family_of(comparable(model).config)
    {"hf": write_hf, "npz": write_npz, "timm": write_timm}[kind](path, model)
    say(f"{target} is {KIND} of {model.config.depth} layers, {model.config.width} wide, for {model.config.image_size}")
    told = (model.config.gelu, model.config.norm_epsilon)
    if kind in UNSAID and told != UNSAID[kind][:2]:
        gelu, epsilon, _ = UNSAID[kind]
        say(
            f"such a file does not tell the GELU and LayerNorm's epsilon: its readers take {gelu} and {epsilon}, "
            f"this model has {told[0]} and {told[1]}"
        )
    if kind in UNSAID and model.config.stem and model.config.stem_epsilons != UNSAID[kind][2]:
        say(
            f"such a file does not tell --stem_epsilons: its readers take {UNSAID[kind][2]}, this model has "
            f"{model.config.stem_epsilons}"
        )
    return verify(source, target, model) if verifies else 0


def read(source: str, heads: int, image_size: str) -> PretrainedVit:
    """A ViT from whatever place; arguments as for `convert`."""
    if split_place(source)[0]:
        return read_foreign(source, heads, image_size)
    start = open_start(source, parse_mesh("data:1", devices=jax.local_devices()[:1]), say)
    labels = list(start.classes) if start.classes else None
    return PretrainedVit(start.config, jax.device_get(start.params), labels, *NORMALIZATIONS[start.normalization])


def verify(source: str, target: str, model: PretrainedVit) -> int:
    """Runs both sides on what was written, prints the greatest differences; returns the exit code.

    Args:
      source: where the model comes from.
      target: where it was written.
      model: as it was read from the source.
    """
    ours = comparable(read_foreign(target, model.config.heads, model.config.image_size))
    with tempfile.TemporaryDirectory() as scratch:
        # What the source's own program makes of it, where that is the peer.
        theirs = next((split_place(place)[1] for place in (source, target) if split_place(place)[0] == "hf"), None)
        if theirs is None:
            theirs = pathlib.Path(scratch) / "exported"
            write_hf(theirs, comparable(model))
        differences = vit_verification.compare(ours, theirs)
    rows = [(name, f"{value:.1e}") for name, value in differences.items()]
    print_table("beside transformers, float32", ("output", "greatest difference"), rows)
    if max(differences.values()) <= LARGEST:
        return 0
    say(f"they differ by more than {LARGEST}: not the same model")
    return DIFFERENT


def comparable(model: PretrainedVit) -> PretrainedVit:
    """As much of a model as `transformers` can hold: without a classifier that its ViTs do not have."""
    config, params = model.config, model.params
    both = config.representation and model.classes is not None
    if config.pooling == "token_and_mean" or (config.pooling == "token" and not both):
        return model
    vit = {name: value for name, value in params["vit"].items() if name != "pooler"}
    pooling = "token" if config.class_token else config.pooling
    config = dataclasses.replace(config, pooling=pooling, representation=False)
    return dataclasses.replace(model, config=config, params={"vit": vit})
