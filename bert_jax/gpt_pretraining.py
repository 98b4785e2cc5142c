"""From a configuration to everything that pretraining and using a GPT need: text, model and parameters."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax.corpus import Corpus, open_corpus
from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig, GptPretraining, GptRun, read_gpt_config
from bert_jax.gpt_tasks import initial_params, next_token_loss
from bert_jax.ngram_baseline import KneserNey
from bert_jax.packed_texts import PackedTexts
from bert_jax.prepared_text import corpus_folder
from bert_jax.pretraining import identity
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.data import Examples, evaluation_batches
from core_jax.family import Evaluated, Evaluation
from core_jax.metrics import means
from core_jax.train import RATES
from core_jax.trained import trained_params


@dataclasses.dataclass(frozen=True)
class TextRows:
    """The text of a run: its vocabulary, its rows to train on and those held out, and what they are made of."""

    tokenizer: Tokenizer
    train: PackedTexts
    held_out: PackedTexts
    train_corpus: Corpus
    held_out_corpus: Corpus


def open_text(config: GptPretraining, workdir: str) -> TextRows:
    """The text of a run that has prepared it.

    Raises:
      UserError: it is damaged, too small, or was cut into sentences.
    """
    tokenizer = load_tokenizer(os.path.join(workdir, "tokenizer"))
    folder = corpus_folder(config, workdir)
    train, held_out = open_corpus(folder, "train"), open_corpus(folder, "held_out")
    summary = train.summary
    require(
        summary.train.sentences == summary.train.documents,
        f"--data={config.text.data} was cut into sentences, as for BERT; for GPT prepare it with --language=",
    )

    def rows(corpus: Corpus) -> PackedTexts:
        return PackedTexts(corpus, tokenizer, sequence_length=config.text.sequence_length, seed=config.training.seed)

    return TextRows(tokenizer, rows(train), rows(held_out), train, held_out)


def batch_shapes(config: GptRun) -> dict[str, Any]:
    """Shapes and dtypes of the global batch of a run, before there is any text."""
    size = (config.training.global_batch_size, config.text.sequence_length)
    names = ("tokens", "labels", "segments", "positions")
    weights = {"next": jax.ShapeDtypeStruct(size, jnp.float32)}
    return {**dict.fromkeys(names, jax.ShapeDtypeStruct(size, jnp.int32)), "weights": weights}


def resolve_model(config: GptConfig, tokenizer: Tokenizer) -> Gpt:
    """The model for a vocabulary that is there now."""
    return Gpt(dataclasses.replace(config, vocab_size=tokenizer.vocab_size))


def load_params(model: Gpt, tokenizer: Tokenizer, workdir: str, mesh: Mesh, report: Callable[[str], None]) -> PyTree:
    """The parameters of a work folder's newest checkpoint, sharded over a mesh; their average where there is one.

    Raises:
      UserError: there are none, or they belong to another model or vocabulary.
    """
    config = read_gpt_config(workdir)
    recipe = config.optimizer, config.training
    return trained_params(workdir, initial_params(model), *recipe, mesh, identity=identity(tokenizer), report=report)


@dataclasses.dataclass(frozen=True)
class TrainedGpt:
    """A pretrained GPT, as its work folder holds it."""

    config: GptRun
    model: Gpt
    tokenizer: Tokenizer
    params: PyTree


def open_trained(workdir: str, mesh: Mesh, report: Callable[[str], None]) -> TrainedGpt:
    """Reads configuration, vocabulary and parameters of a run.

    Args:
      workdir: of the run.
      mesh: where the parameters go.
      report: is told about checkpoints that cannot be used.
    Raises:
      UserError: the folder holds no run of a GPT, or no checkpoint that fits.
    """
    config = read_gpt_config(workdir)
    tokenizer = load_tokenizer(os.path.join(workdir, "tokenizer"))
    model = resolve_model(config.model, tokenizer)
    return TrainedGpt(config, model, tokenizer, load_params(model, tokenizer, workdir, mesh, report))


def make_evaluation(model: Gpt, text: TextRows, config: GptPretraining, mesh: Mesh) -> Evaluation:
    """Builds the scoring of held-out text.

    Args:
      model: to score.
      text: has the held-out rows.
      config: says in batches of what size.
      mesh: where it is computed.
    Returns:
      (params, stopping) -> scores by name: loss in nats a token, perplexity, bits for each byte of UTF-8, and those of
      the 5-gram baseline on the same tokens; None where `stopping()` became true. The end of a document counts as a
      token, and as no byte.
    """
    score = row_scoring(model, text.held_out, config.training.global_batch_size, mesh)
    size = functools.cache(lambda: _bytes_of(text.held_out_corpus, text.tokenizer))
    baseline = functools.cache(lambda: _ngram_loss(text))

    def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
        found = score(params, stopping)
        if found is None:
            return None
        loss, scores = found
        tokens = int(text.held_out.lengths.sum())
        described = _describe_loss("", loss, tokens, size())
        return Evaluated(described | scores | _describe_loss("ngram_", baseline(), tokens, size()))

    return evaluate


def row_scoring(
    model: Gpt, rows: Examples, batch_size: int, mesh: Mesh
) -> Callable[[PyTree, Callable[[], bool]], tuple[float, dict[str, float]] | None]:
    """Builds the scoring of packed rows.

    Returns:
      (params, stopping) -> loss in nats a token that counts, and the other scores by name; None where `stopping()`
      became true.
    """
    score = jax.jit(next_token_loss(model, train=False))

    def run(params: PyTree, stopping: Callable[[], bool]) -> tuple[float, dict[str, float]] | None:
        found: list[Any] = []
        with jax.set_mesh(mesh):
            for batch in evaluation_batches(rows, mesh, batch_size=batch_size):
                if stopping():
                    return None
                found.append(score(params, batch, jax.random.key(0))[1])
        values = means(jax.device_get(found))
        loss = values.pop("next_loss")
        return loss, {name: value for name, value in values.items() if name not in RATES}

    return run


def _ngram_loss(text: TextRows) -> float:
    tokenizer = text.tokenizer
    return KneserNey(text.train_corpus, tokenizer.end_id, tokenizer.vocab_size).loss(text.held_out_corpus)


def _bytes_of(corpus: Corpus, tokenizer: Tokenizer) -> int:
    """Bytes of UTF-8 of the text that the tokens of a corpus spell."""
    texts = (tokenizer.decode(corpus.tokens(document).tolist()) for document in range(len(corpus)))
    return sum(len(text.encode()) for text in texts)


def _describe_loss(prefix: str, loss: float, tokens: int, size: int) -> dict[str, float]:
    bits = loss * tokens / math.log(2)
    return {f"{prefix}loss": loss, f"{prefix}perplexity": math.exp(loss), f"{prefix}bits_per_byte": bits / size}
