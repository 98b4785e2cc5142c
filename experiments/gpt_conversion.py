"""Carries a GPT over to folders of `transformers`; `experiments.convert` is the command."""

import dataclasses
import pathlib

import jax
import numpy as np

from bert_jax.gpt import Gpt
from bert_jax.gpt_pretraining import open_trained
from bert_jax.gpt_weights import ARCHITECTURE, ImportedGpt, read_hf, unrolled_params, write_hf
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.model_folders import check_free
from core_jax.sharding import parse_mesh
from experiments.console import print_table, say
from experiments.verification import DIFFERENT, LARGEST, LONGEST, ROWS, import_peer


def convert(source: str, target: str, *, verifies: bool) -> int:
    """Writes a GPT to another place, and compares it with the peer if asked to; returns the exit code.

    Args:
      source: hf:DIR or the work folder of a run.
      target: hf:DIR to make.
      verifies: whether to compare.
    Raises:
      UserError: the source cannot be read, or the target not be written.
    """
    require(
        target.startswith("hf:"),
        f"{target}: a GPT is written to hf:DIR; to go on with this one, type python -m experiments.pretrain gpt2-small "
        f"--init={source}",
    )
    folder = pathlib.Path(target.removeprefix("hf:")).expanduser()
    check_free(folder)
    if verifies:
        import_peer()
    model, tokenizer = read(source)
    write_hf(folder, model.config, model.params, tokenizer)
    say(f"{target} is a {ARCHITECTURE} of transformers")
    return verify(folder) if verifies else 0


def read(source: str) -> tuple[ImportedGpt, Tokenizer]:
    """A GPT and its vocabulary from either place."""
    if source.startswith("hf:"):
        folder = source.removeprefix("hf:")
        return read_hf(folder), load_tokenizer(folder)
    trained = open_trained(source, parse_mesh("data:1", devices=jax.local_devices()[:1]), say)
    config = dataclasses.replace(trained.model.config, scan_layers=False)
    return ImportedGpt(config, unrolled_params(trained.params)), trained.tokenizer


def verify(folder: pathlib.Path) -> int:
    """Runs both sides on the folder and random tokens, prints the greatest difference; returns the exit code."""
    torch, transformers = import_peer()
    ours = read_hf(folder)
    config = dataclasses.replace(ours.config, dtype="float32")
    length = min(LONGEST, config.maximum_positions)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (ROWS, length), dtype=np.int32)
    found = jax.jit(Gpt(config).apply)({"params": ours.params}, tokens)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    peer = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager", dtype="float32").eval()
    with torch.inference_mode():
        expected = peer(input_ids=torch.tensor(tokens.astype(np.int64))).logits.numpy()
    difference = float(np.abs(np.asarray(found) - expected).max())
    print_table("beside transformers, float32", ("output", "greatest difference"), [("logits", f"{difference:.1e}")])
    if difference <= LARGEST:
        return 0
    say(f"they differ by more than {LARGEST}: not the same model")
    return DIFFERENT
