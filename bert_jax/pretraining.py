"""From a configuration to everything that pretraining, scoring and predicting need: text, model and parameters."""

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64, PyTree

from bert_jax.config import BertConfig, BertPretraining
from bert_jax.corpus import build_corpus, corpus_exists, is_held_out, open_corpus
from bert_jax.model import BertForPretraining
from bert_jax.packed_pairs import PackedPairs, room_of_rows
from bert_jax.pretraining_data import PretrainingExamples, predictions_per_row
from bert_jax.tasks import initial_params, make_scoring
from bert_jax.tokenizer import Tokenizer, load_tokenizer
from bert_jax.tokenizer_training import train_sentencepiece, train_wordpiece
from core_jax.checkpoints import restore_params
from core_jax.data import evaluation_batches
from core_jax.distributed import first_decides
from core_jax.metrics import means
from core_jax.sharding import with_shardings
from core_jax.sources import read_documents
from core_jax.train import RATES
from core_jax.workdir import read_config

TRAINED_TOKENIZERS = ("wordpiece", "sentencepiece", "sentencepiece-bpe")


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
    first_decides(lambda: _make_text(config, workdir, report))
    return open_text(config, workdir)


def has_text(workdir: str) -> bool:
    """Whether a work folder's text is prepared, so that its source is not needed any more."""
    return os.path.isdir(os.path.join(workdir, "tokenizer")) and corpus_exists(os.path.join(workdir, "corpus"))


def open_text(config: BertPretraining, workdir: str) -> Text:
    """The text of a run that has prepared it."""
    tokenizer, text = load_tokenizer(os.path.join(workdir, "tokenizer")), config.text

    def examples(split):
        return PretrainingExamples(
            open_corpus(os.path.join(workdir, "corpus"), split),
            tokenizer,
            sequence_length=text.sequence_length,
            mask_probability=text.mask_probability,
            whole_word_masking=text.whole_word_masking,
            short_probability=text.short_probability,
            seed=config.training.seed,
        )

    counts = open_corpus(os.path.join(workdir, "corpus"), "train").unigram_counts
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


def _make_text(config, workdir, report):
    tokenizer_folder, corpus_folder = (os.path.join(workdir, name) for name in ("tokenizer", "corpus"))
    if not os.path.isdir(tokenizer_folder):
        tokenizer = _make_tokenizer(config, report)
        # Several files: the folder gets its name when all are there.
        unfinished = os.path.join(workdir, f".tokenizer.{uuid.uuid4().hex}")
        tokenizer.save(unfinished)
        os.rename(unfinished, tokenizer_folder)
    if not corpus_exists(corpus_folder):
        report("tokenising the text")
        build_corpus(
            _documents(config),
            load_tokenizer(tokenizer_folder),
            corpus_folder,
            held_out=config.text.held_out,
            language=config.text.language,
        )


def _make_tokenizer(config, report):
    text = config.text
    if text.tokenizer not in TRAINED_TOKENIZERS:
        return load_tokenizer(text.tokenizer)
    if config.init:
        return load_tokenizer(os.path.join(config.init, "tokenizer"))
    report(f"training a {text.tokenizer} vocabulary of {config.model.vocab_size:,} pieces")
    # The vocabulary, too, learns nothing from held-out documents.
    documents = (document for document in _documents(config) if not is_held_out(document, text.held_out))
    if text.tokenizer == "wordpiece":
        return train_wordpiece(documents, config.model.vocab_size, text.lowercase)
    model_type = "bpe" if text.tokenizer == "sentencepiece-bpe" else "unigram"
    return train_sentencepiece(documents, config.model.vocab_size, model_type)


def _documents(config) -> Iterator[str]:
    text = config.text
    return read_documents(
        text.data, text_column=text.text_column, split=text.data_split, data_dir=text.data_dir or None
    )


def resolve_model(config: BertConfig, tokenizer: Tokenizer) -> BertForPretraining:
    """The model for a vocabulary that is there now."""
    return BertForPretraining(dataclasses.replace(config, vocab_size=tokenizer.vocab_size))


def identity(tokenizer: Tokenizer) -> dict[str, str]:
    """What a checkpoint belongs to beside its shapes: the vocabulary, in its order."""
    pieces = "\n".join(tokenizer.piece(index) for index in range(tokenizer.vocab_size))
    return {"vocabulary": hashlib.sha256(pieces.encode()).hexdigest()}


def load_params(
    model: BertForPretraining, tokenizer: Tokenizer, workdir: str, mesh: Mesh, report: Callable[[str], None]
) -> PyTree:
    """The parameters of a work folder's newest checkpoint, sharded over a mesh.

    Raises:
      UserError: there are none, or they belong to another model or vocabulary.
    """
    shapes = jax.eval_shape(initial_params(model), jax.random.key(0))
    return restore_params(
        os.path.join(workdir, "checkpoints"), with_shardings(shapes, mesh), identity=identity(tokenizer), report=report
    )


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


def make_evaluation(
    model: BertForPretraining, text: Text, config: BertPretraining, mesh: Mesh
) -> Callable[[PyTree, Callable[[], bool]], dict[str, float] | None]:
    """Builds the scoring of held-out text.

    Args:
      model: to score.
      text: has the held-out examples.
      config: says how many passes, in batches of what size.
      mesh: where it is computed.
    Returns:
      (params, stopping) -> scores by name, the unigram baseline's among them; None where `stopping()` became true.
      Every held-out example is counted once a pass, and all passes are the same every time.
    """
    score = make_scoring(model, text.unigram_counts)

    def evaluate(params: PyTree, stopping: Callable[[], bool]) -> dict[str, float] | None:
        metrics: list[Any] = []
        batches = evaluation_batches(
            text.held_out, mesh, batch_size=config.training.global_batch_size, passes=config.text.evaluation_passes
        )
        with jax.set_mesh(mesh):
            for batch in batches:
                if stopping():
                    return None
                metrics.append(score(params, batch))
        values = means(jax.device_get(metrics))
        values = {name: value for name, value in values.items() if name not in RATES}
        return {"loss": values["mlm_loss"] + values["nsp_loss"]} | values

    return evaluate
