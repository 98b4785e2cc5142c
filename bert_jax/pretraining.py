"""From a configuration to everything that pretraining, scoring and predicting need: text, model and parameters."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64, PyTree

from bert_jax.config import BertConfig, BertPretraining
from bert_jax.corpus import open_corpus
from bert_jax.model import BertForPretraining
from bert_jax.packed_pairs import PackedPairs, room_of_rows
from bert_jax.prepared_text import corpus_folder, make_text
from bert_jax.pretraining_data import PretrainingExamples, predictions_per_row
from bert_jax.tasks import initial_params, make_scoring
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.data import evaluation_batches
from core_jax.family import Evaluated, Evaluation
from core_jax.metrics import means
from core_jax.train import RATES
from core_jax.trained import trained_params
from core_jax.workdir import read_config


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of a run: its vocabulary, its examples to train on and those held out."""

    tokenizer: Tokenizer
    train: PretrainingExamples | PackedPairs
    held_out: PretrainingExamples
    unigram_counts: Int64[np.ndarray, " V"]  # of each piece in the training documents


def prepare_text(config: BertPretraining, workdir: str, report: Callable[[str], None]) -> Text:
    """Reads the work folder's vocabulary and tokenised corpus; makes them where they are not there yet.

    Args:
      config: says which text and which vocabulary.
      workdir: keeps both, in `tokenizer` and `corpus`.
      report: is told what is being made.
    Raises:
      UserError: the text or the vocabulary cannot be read, or is too small.
    """
    make_text(config, workdir, report)
    return open_text(config, workdir)


def open_text(config: BertPretraining, workdir: str) -> Text:
    """The text of a run that has prepared it."""
    tokenizer, text = load_tokenizer(os.path.join(workdir, "tokenizer")), config.text
    corpus = corpus_folder(config, workdir)

    def examples(split):
        return PretrainingExamples(
            open_corpus(corpus, split),
            tokenizer,
            sequence_length=text.sequence_length,
            mask_probability=text.mask_probability,
            whole_word_masking=text.whole_word_masking,
            short_probability=text.short_probability,
            seed=config.training.seed,
        )

    counts = open_corpus(corpus, "train").unigram_counts
    train = examples("train")
    packed = PackedPairs(train, config.training.seed) if text.packing else train
    return Text(tokenizer, packed, examples("held_out"), counts)


def batch_shapes(config: BertPretraining) -> dict[str, Any]:
    """Shapes and dtypes of the global batch of a run, before there is any text."""
    text, rows = config.text, config.training.global_batch_size
    pairs, predictions = (), predictions_per_row(text.sequence_length, text.mask_probability)
    names = ("tokens", "segments", "types")
    if text.packing:
        room, predictions = room_of_rows(text.sequence_length, text.mask_probability)
        pairs, names = (room,), (*names, "positions")

    def shape(*sizes, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((rows, *sizes), dtype)

    return {
        **dict.fromkeys(names, shape(text.sequence_length)),
        **({"cls_positions": shape(*pairs)} if text.packing else {}),
        **dict.fromkeys(("mlm_positions", "mlm_labels"), shape(predictions)),
        "nsp_labels": shape(*pairs),
        "weights": {"mlm": shape(predictions, dtype=jnp.float32), "nsp": shape(*pairs, dtype=jnp.float32)},
    }


def resolve_model(config: BertConfig, tokenizer: Tokenizer) -> BertForPretraining:
    """The model for a vocabulary that is there now.

    Raises:
      UserError: it is no vocabulary of BERT.
    """
    require(
        tokenizer.mask_id >= 0,
        "the vocabulary has no [MASK] and the other special pieces of BERT: it is one of GPT. Choose a vocabulary made "
        "for BERT, or let one be trained",
    )
    return BertForPretraining(dataclasses.replace(config, vocab_size=tokenizer.vocab_size))


def identity(tokenizer: Tokenizer) -> dict[str, str]:
    """What a checkpoint belongs to beside its shapes: the vocabulary, in its order."""
    pieces = "\n".join(tokenizer.piece(index) for index in range(tokenizer.vocab_size))
    return {"vocabulary": hashlib.sha256(pieces.encode()).hexdigest()}


def load_params(
    model: BertForPretraining, tokenizer: Tokenizer, workdir: str, mesh: Mesh, report: Callable[[str], None]
) -> PyTree:
    """The parameters of a work folder's newest checkpoint, sharded over a mesh; their average where there is one.

    Raises:
      UserError: there are none, or they belong to another model or vocabulary.
    """
    config = read_config(workdir, BertPretraining)
    recipe = config.optimizer, config.training
    return trained_params(workdir, initial_params(model), *recipe, mesh, identity=identity(tokenizer), report=report)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A pretrained BERT, as its work folder holds it."""

    config: BertPretraining
    model: BertForPretraining
    tokenizer: Tokenizer
    params: PyTree


def open_trained(workdir: str, mesh: Mesh, report: Callable[[str], None]) -> Trained:
    """Reads configuration, vocabulary and parameters of a run.

    Args:
      workdir: of the run.
      mesh: where the parameters go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: the folder holds no run, or no checkpoint that fits.
    """
    config = read_config(workdir, BertPretraining)
    tokenizer = load_tokenizer(os.path.join(workdir, "tokenizer"))
    model = resolve_model(config.model, tokenizer)
    return Trained(config, model, tokenizer, load_params(model, tokenizer, workdir, mesh, report))


def make_evaluation(model: BertForPretraining, text: Text, config: BertPretraining, mesh: Mesh) -> Evaluation:
    """Builds the scoring of held-out text.

    Args:
      model: to score.
      text: has the held-out examples.
      config: says how many passes, in batches of what size.
      mesh: where it is computed.
    Returns:
      (params, stopping) -> scores by name, the unigram baseline's among them, and how the first batch is filled; None
      where `stopping()` became true. Every held-out example is counted once a pass, and all passes are the same every
      time.
    """
    score = make_scoring(model, text.unigram_counts)

    def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
        metrics: list[Any] = []
        filled: list[Any] = []
        batches = evaluation_batches(
            text.held_out, mesh, batch_size=config.training.global_batch_size, passes=config.text.evaluation_passes
        )
        with jax.set_mesh(mesh):
            for batch in batches:
                if stopping():
                    return None
                found, pieces = score(params, batch)
                metrics.append(found)
                filled = filled or [pieces]
        values = means(jax.device_get(metrics))
        values = {name: value for name, value in values.items() if name not in RATES}
        scores = {"loss": values["mlm_loss"] + config.next_sentence_weight * values["nsp_loss"]} | values
        return Evaluated(scores, filled=jax.device_get(filled[0]) if jax.process_count() == 1 else None)

    return evaluate
