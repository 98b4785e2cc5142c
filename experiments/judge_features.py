"""How good features of a ViT are:   python -m experiments.judge_features --init=hf:DIR --data=images:DIR

Its nearest neighbours vote, and a linear classifier is fitted; both stand beside the same ViT with random parameters.
"""

import dataclasses
import json
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax.config import require
from core_jax.sharding import parse_mesh, tree_shardings
from core_jax.workdir import write_atomically
from experiments.console import format_value, parse_flags, print_table, run_command, say
from vit_jax.config import VitConfig
from vit_jax.features import extract_features, linear_probe, make_extractor, nearest_neighbours
from vit_jax.image_sets import ImageSet, check_images, open_image_set
from vit_jax.images_config import ImagesConfig
from vit_jax.model import VitForClassification
from vit_jax.position_tables import resize_model
from vit_jax.skipped_images import describe_skipped
from vit_jax.starting_weights import check_init, open_start
from vit_jax.tasks import initial_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """Judges the features of a ViT by simple classifiers."""

    init: str  # hf:DIR, npz:FILE, timm:FILE, or the work folder of a run
    images: ImagesConfig = dataclasses.field(default_factory=ImagesConfig)
    image_size: str = ""  # pixels of a side, or HEIGHTxWIDTH, other than the model's own: positions are interpolated
    neighbours: int = 20  # of an image that vote for its class
    batch_size: int = 64  # images that are computed together
    mesh: str = "data:-1"  # devices by axis, as for pretraining
    output: str = ""  # file for the scores, as JSON

    def __post_init__(self):
        for name in ("neighbours", "batch_size"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected 1 or more")


def main(arguments: list[str]) -> int:
    """Judges and prints; returns the exit code."""
    flags = parse_flags(Judgement, arguments, "Judges the features of a ViT by simple classifiers.")
    check_init(flags.init)
    check_images(flags.images)
    mesh = parse_mesh(flags.mesh)
    start = open_start(flags.init, mesh, say)
    config, params = resize_model(start.config, start.params, flags.image_size or start.config.image_size, start.method)
    images = dataclasses.replace(flags.images, normalization=start.normalization)
    size: dict[str, Any] = {"height": config.height, "width": config.width_of_image, "channels": config.channels}
    data = open_image_set(images, **size, seed=0)
    model = VitForClassification(config, len(data.classes))
    random = jax.jit(initial_params(model))(jax.random.key(0))
    pretrained, sizes = judge(flags, config, params["vit"], data, mesh)
    found = {"pretrained": pretrained, "random": judge(flags, config, random["vit"], data, mesh)[0]}
    title = (
        f"{flags.init} on {images.data}: {sizes['learnt_from']:,} images to learn from, {sizes['scored']:,} to score"
    )
    rows = [
        (name.replace("_", " "), *(format_value("accuracy", scores[name]) for scores in found.values()))
        for name in found["random"]
    ]
    print_table(title, ("accuracy", *found), rows)
    skipped = data.skipped.names()
    if skipped:
        say(describe_skipped(len(skipped), skipped))
    if flags.output:
        content = {"init": flags.init, "data": images.data} | sizes | {"skipped_images": len(skipped)} | found
        write_atomically(flags.output, json.dumps(content, indent=2) + "\n")
    return 0


def judge(
    flags: Judgement, config: VitConfig, params: PyTree, data: ImageSet, mesh: Mesh
) -> tuple[dict[str, float], dict[str, int]]:
    """The accuracy of each judge, by its name; and how many images could be read to learn from and to score."""
    images: Any = data.train
    extract, params = (
        make_extractor(config, images.images.normalization),
        jax.device_put(params, tree_shardings(params, mesh)),
    )
    plain = dataclasses.replace(images, train=False)  # without random changes
    train = extract_features(extract, params, plain, mesh, flags.batch_size)
    test = extract_features(extract, params, data.held_out, mesh, flags.batch_size)
    scores = {
        "nearest_neighbours": nearest_neighbours(*train, *test, flags.neighbours),
        "linear_probe": linear_probe(*train, *test),
    }
    return scores, {"learnt_from": len(train[1]), "scored": len(test[1])}


if __name__ == "__main__":
    run_command(main)
