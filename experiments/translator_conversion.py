"""Carries a translator over to folders of `transformers` (Marian, T5) and back: a part of `experiments.convert`."""

import dataclasses
import pathlib

import jax
import numpy as np

from bert_jax.preparation import save_tokenizer
from bert_jax.pretraining import identity
from bert_jax.translation import Translator
from bert_jax.translator_files import unrolled_params
from bert_jax.translator_folders import kind_for
from core_jax.beam_search import BeamSettings
from core_jax.checkpoints import Checkpoints
from core_jax.config import require
from core_jax.model_folders import check_free, write_folder
from core_jax.sharding import parse_mesh
from core_jax.train import State
from core_jax.workdir import save_config
from experiments.console import print_table, say
from experiments.epoch_scores import BEST
from experiments.trained_translators import FOREIGN, OpenTranslator, open_trained
from experiments.verification import DIFFERENT, LARGEST, LONGEST, ROWS, import_peer


def convert(source: str, target: str, *, verifies: bool) -> int:
    """Writes a translator to another place, and compares it with the peer if asked to; returns the exit code.

    Args:
      source: hf:DIR or the work folder of a run.
      target: hf:DIR or the work folder to make.
      verifies: whether to compare.
    Raises:
      UserError: the source cannot be read, or the target not be written.
    """
    require(
        source.startswith(FOREIGN) or target.startswith(FOREIGN),
        f"{source} and {target} are both work folders; expected hf:DIR for one of them",
    )
    folder = pathlib.Path(target.removeprefix(FOREIGN)).expanduser()
    check_free(folder)
    if verifies:
        import_peer()
    found = read(source)
    if target.startswith(FOREIGN):
        search = BeamSettings(beams=found.config.beams, length_penalty=found.config.length_penalty)
        kind = kind_for(found.model)
        kind.write_hf(folder, found.model, found.params, found.tokenizer, search)
        say(f"{target} is a {kind.ARCHITECTURE} of transformers")
    else:
        write_workdir(folder, found)
        say(f'next: python -m experiments.predict --init={folder} "A sentence."')
    if not verifies:
        return 0
    theirs = target if target.startswith(FOREIGN) else source
    return verify(read(target), pathlib.Path(theirs.removeprefix(FOREIGN)).expanduser())


def read(place: str) -> OpenTranslator:
    """A translator from either place, its parameters unrolled and on the host."""
    found = open_trained(place, parse_mesh("data:1", devices=jax.local_devices()[:1]))
    model = dataclasses.replace(found.model, scan_layers=False)
    return dataclasses.replace(found, model=model, params=unrolled_params(found.params))


def write_workdir(folder: pathlib.Path, found: OpenTranslator) -> None:
    """Makes a work folder with config.json, vocabulary and the best parameters, of step 0; it is whole or absent."""

    def write(temporary: pathlib.Path) -> None:
        save_config(temporary, dataclasses.replace(found.config, model=found.model))
        save_tokenizer(found.tokenizer, str(temporary / "tokenizer"))
        best = Checkpoints(temporary / BEST, keep=1, identity=identity(found.tokenizer), report=say)
        params = jax.device_put(found.params, jax.local_devices()[0])
        best.save(0, State(jax.numpy.int32(0), params, {}, jax.random.key(0)))
        best.close()

    write_folder(folder, write)


def verify(found: OpenTranslator, theirs: pathlib.Path) -> int:
    """Runs a translator and a folder of the peer on random tokens, prints how they differ; gives the exit code."""
    torch, transformers = import_peer()
    config = dataclasses.replace(found.model, dtype="float32")
    length, random = min(LONGEST, config.maximum_positions), np.random.default_rng(0)
    lengths = np.array([length, *random.integers(1, length + 1, ROWS - 1)])[:, None]
    sources, tokens = random.integers(0, config.vocab_size, (2, ROWS, length), dtype=np.int32)
    segments = (np.arange(length) < lengths).astype(np.int32)
    inputs = {"input_ids": sources, "attention_mask": segments, "decoder_input_ids": tokens}
    ours = jax.jit(Translator(config).apply)({"params": found.params}, sources, segments, tokens, np.ones_like(tokens))
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, kind_for(config).ARCHITECTURE)
    peer = kind.from_pretrained(theirs, attn_implementation="eager", dtype="float32").eval()
    with torch.inference_mode():
        arguments = {name: torch.tensor(value.astype(np.int64)) for name, value in inputs.items()}
        expected = peer(**arguments).logits.numpy()
    difference = float(np.abs(np.asarray(ours) - expected).max())
    print_table("beside transformers, float32", ("output", "greatest difference"), [("logits", f"{difference:.1e}")])
    if difference <= LARGEST:
        return 0
    say(f"they differ by more than {LARGEST}: not the same model")
    return DIFFERENT
