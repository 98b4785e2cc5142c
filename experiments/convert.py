"""Converts a BERT, GPT, translator, Whisper or ViT:   python -m experiments.convert SOURCE TARGET [--verify]

SOURCE of a BERT is hf:DIR (as `transformers` saves it), tf:PREFIX (an original checkpoint) or a work folder, TARGET
hf:DIR or a work folder to make. Of a GPT SOURCE is hf:DIR or a work folder, TARGET hf:DIR; of a translator (Marian, T5)
one is hf:DIR, the other a work folder or hf:DIR, and so of a Whisper, whose SOURCE may be ct2:DIR (CTranslate2), too.
Of a ViT both are hf:DIR, npz:FILE (as google-research saves it) or timm:FILE, and SOURCE may be a work folder.
"""

import dataclasses
import pathlib
import tempfile
from typing import Annotated

import jax
import tyro

from bert_jax.config import PRESETS, BertConfig, BertPretraining
from bert_jax.finetuning import open_label_model, save_label_model
from bert_jax.finetuning_config import BertFinetuning
from bert_jax.foreign_label_models import label_model_of
from bert_jax.labelling import initial_label_params
from bert_jax.model import BertForPretraining
from bert_jax.preparation import save_tokenizer
from bert_jax.prepared_text import is_foreign
from bert_jax.pretraining import identity, open_trained
from bert_jax.starting_points import is_fine_tuned, names_gpt, names_translator
from bert_jax.starting_weights import check_sizes, complete, read_foreign
from bert_jax.tasks import initial_params
from bert_jax.weights import (
    LABEL_ARCHITECTURES,
    Imported,
    architecture_of,
    nested_params,
    output_names,
    read_hf,
    write_hf,
)
from core_jax.checkpoints import Checkpoints
from core_jax.config import require
from core_jax.errors import UserError
from core_jax.model_folders import check_free, write_folder
from core_jax.optimizers import make_optimizer
from core_jax.sharding import parse_mesh
from core_jax.train import State, create_state
from core_jax.workdir import save_config
from experiments import gpt_conversion, translator_conversion, verification, vit_conversion, whisper_conversion
from experiments.console import parse_flags, print_table, run_command, say
from experiments.families import is_of_images
from experiments.speech.starting_points import names_whisper
from vit_jax import foreign_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """Carries a model over to another program, or from it."""

    # hf:DIR or the work folder of a run; of a BERT also tf:PREFIX, of a Whisper ct2:DIR, of a ViT npz:FILE or timm:FILE
    source: Annotated[str, tyro.conf.Positional]
    # hf:DIR to make; of a BERT, translator or Whisper also a work folder; of a ViT npz:FILE or timm:FILE
    target: Annotated[str, tyro.conf.Positional]
    verify: bool = False  # run both this model and that of transformers on random inputs, and compare every output
    heads: int = 0  # attention heads of a timm:FILE, which does not tell; 0: as in the published model of its width
    image_size: str = ""  # pixels, or HEIGHTxWIDTH, of an npz:FILE or timm:FILE whose images are not square


def main(arguments: list[str]) -> int:
    """Converts, compares if asked to, and says what to type next; returns the exit code."""
    about = "Converts a BERT, GPT, translator, Whisper or ViT to and from the files of other programs."
    flags = parse_flags(Conversion, arguments, about, switches=["--verify"])
    require(
        not flags.target.startswith("tf:"),
        f"{flags.target}: original checkpoints are read, not written; type hf:DIR or a work folder",
    )
    is_run = ":" not in flags.source
    if is_of_images(flags.source) if is_run else foreign_weights.is_foreign(flags.source):
        sizes = {"heads": flags.heads, "image_size": flags.image_size}
        return vit_conversion.convert(flags.source, flags.target, verifies=flags.verify, **sizes)
    if names_whisper(flags.source):
        return whisper_conversion.convert(flags.source, flags.target, verifies=flags.verify)
    if names_gpt(flags.source):
        return gpt_conversion.convert(flags.source, flags.target, verifies=flags.verify)
    if names_translator(flags.source):
        return translator_conversion.convert(flags.source, flags.target, verifies=flags.verify)
    path = pathlib.Path(flags.target.removeprefix("hf:")).expanduser()
    check_free(path)
    if flags.verify:
        verification.import_peer()
    imported = read(flags.source)
    if flags.target.startswith("hf:"):
        architecture = imported.architecture or architecture_of(imported.params)
        write_hf(path, imported.config, imported.tokenizer, imported.params, architecture, imported.labels)
        say(f"{flags.target} is a {architecture} of transformers")
    elif write_label_workdir(path, imported, flags.source):
        say(f'next: python -m experiments.predict --init={path} "a text"')
    else:
        write_workdir(path, imported, flags.source)
        say(f"next: python -m experiments.pretrain --init={path} --workdir=NEW --data=text:GLOB")
    return verify(flags, imported) if flags.verify else 0


def read(place: str) -> Imported:
    """A model from whatever place.

    Raises:
      UserError: it is not there, damaged, or no BERT.
    """
    if is_foreign(place):
        return read_foreign(place)
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    if is_fine_tuned(place):
        tuned = open_label_model(place, mesh, say)
        config = tuned.model.config
        if not isinstance(config, BertConfig):
            raise UserError(f"{place} is a GPT that labels texts, for which there is no export yet; expected a BERT")
        config = dataclasses.replace(config, scan_layers=False)
        head, params = tuned.model.head, nested_params(tuned.params)
        labels = output_names(head, tuned.classes)
        return Imported(config, tuned.tokenizer, params, labels, LABEL_ARCHITECTURES[head])
    trained = open_trained(place, mesh, say)
    config = dataclasses.replace(trained.model.config, scan_layers=False)
    return Imported(config, trained.tokenizer, nested_params(trained.params))


def write_label_workdir(folder: pathlib.Path, imported: Imported, source: str) -> bool:
    """Makes the work folder of a model that labels texts, as if it was fine-tuned here; whether it is one."""
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    tuned = label_model_of(imported, mesh)
    if tuned is None:
        return False
    config = BertFinetuning(init=source, labels=tuned.labels)
    state = create_state(initial_label_params(tuned.model), make_optimizer(config.optimizer, 1), mesh, seed=0)

    def write(temporary: pathlib.Path) -> None:
        save_config(temporary, config)
        save_label_model(str(temporary), tuned.model, tuned.tokenizer, tuned.classes)
        write_checkpoint(temporary / "best", imported, dataclasses.replace(state, params=tuned.params))

    write_folder(folder, write)
    return True


def write_checkpoint(folder: pathlib.Path, imported: Imported, state: State) -> None:
    """Makes a folder with one checkpoint, of step 0."""
    checkpoints = Checkpoints(folder, keep=1, identity=identity(imported.tokenizer), report=say)
    checkpoints.save(0, state)
    checkpoints.close()


def write_workdir(folder: pathlib.Path, imported: Imported, source: str) -> None:
    """Makes a work folder with config.json, vocabulary and one checkpoint, of step 0; it is whole or absent.

    Args:
      folder: to make.
      imported: the model; pooler and heads of pretraining that it lacks are drawn fresh, which is said.
      source: where it comes from.
    Raises:
      UserError: the vocabulary does not fit, or the folder is not empty.
    """
    check_sizes(source, imported)
    base = PRESETS["bert-base"]
    length = min(base.text.sequence_length, imported.config.maximum_positions)
    text = dataclasses.replace(base.text, sequence_length=length)
    config: BertPretraining = dataclasses.replace(base, model=imported.config, text=text)
    mesh = parse_mesh("data:1", devices=jax.local_devices()[:1])
    model, optimizer = BertForPretraining(imported.config), make_optimizer(config.optimizer, config.training.steps)
    state = create_state(initial_params(model), optimizer, mesh, config.training.seed)
    params, lacking = complete(imported.params, model.config, state.params, mesh)
    if lacking:
        say(f"{source} has no {', '.join(lacking)}: drawn fresh")

    def write(temporary: pathlib.Path) -> None:
        save_config(temporary, config)
        save_tokenizer(imported.tokenizer, str(temporary / "tokenizer"))
        write_checkpoint(temporary / "checkpoints", imported, dataclasses.replace(state, params=params))

    write_folder(folder, write)


def verify(flags: Conversion, imported: Imported) -> int:
    """Runs both sides on what was written, prints the greatest differences; returns the exit code."""
    ours = read_hf(flags.target[3:]) if flags.target.startswith("hf:") else read(flags.target)
    # A work folder has heads that were drawn fresh; what the source lacks cannot be compared.
    kept = {name: value for name, value in ours.params.items() if name in imported.params}
    kept["bert"] = {name: value for name, value in ours.params["bert"].items() if name in imported.params["bert"]}
    ours = dataclasses.replace(ours, params=kept)
    architecture = imported.architecture or architecture_of(kept)
    inputs = verification.random_inputs(ours.config)
    with tempfile.TemporaryDirectory() as scratch:
        theirs = next((place[3:] for place in (flags.source, flags.target) if place.startswith("hf:")), "")
        if not theirs:  # neither side is a folder that the peer opens
            theirs = f"{scratch}/exported"
            write_hf(theirs, imported.config, imported.tokenizer, imported.params, architecture, imported.labels)
        peer = verification.peer_outputs(pathlib.Path(theirs).expanduser(), architecture, inputs)
    differences = verification.greatest_differences(verification.our_outputs(ours, inputs), peer, inputs)
    rows = [(name, f"{value:.1e}") for name, value in differences.items()]
    print_table("beside transformers, float32", ("output", "greatest difference"), rows)
    if max(differences.values()) <= verification.LARGEST:
        return 0
    say(f"they differ by more than {verification.LARGEST}: not the same model")
    return verification.DIFFERENT


if __name__ == "__main__":
    run_command(main)
