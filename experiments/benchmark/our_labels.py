"""Our side of fine-tuning and embedding: the step of `experiments.finetune`, the batches of `experiments.embed`.

Batches are packed beforehand, as both commands do in the background.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.embedding import encoder_params, make_embedder, unlabelled_texts
from bert_jax.finetuning import tuning_step
from bert_jax.labelled_rows import LabelledTexts, pack_texts, unlabelled_batches, without_places
from bert_jax.labelling import labelling_loss
from bert_jax.model import BertForLabels
from core_jax.optimizers import make_optimizer
from core_jax.sharding import nested, parse_mesh, tree_shardings
from core_jax.train import State
from experiments.benchmark.modes import Mode
from experiments.benchmark.ours import count_useful
from experiments.benchmark.pairs import Pair, load_pairs
from experiments.benchmark.workplace import Workplace

TEXTS = 16  # that are embedded together, as by `experiments.embed --batch_size=16`: what they need stays in the cache


def tuning_rows(batches: Sequence[Sequence[Pair]], work: Workplace) -> list[dict[str, Any]]:
    """The very examples of each batch, packed into few rows."""
    pairs = [pair for batch in batches for pair in batch]
    unlabelled = unlabelled_texts([pair.tokens for pair in pairs], work.pad_id)
    labels = [pair.label for pair in pairs]
    data: LabelledTexts = dataclasses.replace(unlabelled, labels=labels, weights=np.ones(len(pairs), np.float32))
    ends = itertools.accumulate((len(batch) for batch in batches), initial=0)
    return [pack_texts(data, np.arange(*bounds), work.sequence_length, 1) for bounds in itertools.pairwise(ends)]


def embedding_rows(pairs: Sequence[Pair], work: Workplace) -> list[dict[str, Any]]:
    """All texts in full rows; a batch's "texts" says which stand where."""
    texts = unlabelled_texts([pair.tokens for pair in pairs], work.pad_id)
    return list(unlabelled_batches(texts, batch_size=TEXTS, sequence_length=work.sequence_length, multiple=1))


@dataclasses.dataclass
class OurLabels:
    """One of our modes, ready to measure."""

    work: Workplace
    model: BertForLabels
    rows: list[dict[str, Any]]
    state: Any  # of training, or the encoder's parameters
    compute: Callable[..., Any]  # a step of (state, batch), or the vectors of (params, batch)

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "OurLabels":
        """Loads weights and texts."""
        config, params = work.config(), jax.tree.map(jnp.asarray, nested(work.weights()))
        classes = params["classifier"]["dense"]["bias"].shape[0]
        model = BertForLabels(dataclasses.replace(config.model, dtype=mode.dtype), "classification", classes)
        batches = load_pairs(work.pairs_file)
        if work.task == "embedding":
            rows = embedding_rows([pair for batch in batches for pair in batch], work)
            encoder = encoder_params(params["bert"], model.config)
            return cls(work, model, rows, encoder, make_embedder(model.config, "mean", normalize=False))
        optimizer, steps = config.optimizer, config.training.steps
        moments = make_optimizer(optimizer, steps).init(params)
        state = State(jnp.zeros((), jnp.int32), params, moments, jax.random.key(config.training.seed))
        mesh = parse_mesh("data:1")
        state = jax.device_put(state, tree_shardings(state, mesh))  # where a step leaves it, or it would compile twice
        step: Any = tuning_step  # typed as a cached function of hashable arguments, which pyright does not see in flax
        return cls(work, model, tuning_rows(batches, work), state, step(model, optimizer, steps, 0.0, mesh))

    def batches(self) -> dict[str, list[dict[str, Any]]]:
        """Our batches for each way to batch."""
        return {"packed": self.rows}

    def check(self) -> list[float]:
        """What must agree with the peer on its first batch: the loss without dropout, or the vectors."""
        if self.work.task == "finetuning":
            loss = jax.jit(labelling_loss(self.model, train=False))
            return [float(loss(self.state.params, without_places(self.rows[0]), jax.random.key(0))[0])]
        first = load_pairs(self.work.pairs_file)[0]
        found = np.zeros((len(first), self.model.config.width), np.float32)
        for batch in embedding_rows(first, self.work):
            there = batch["texts"] >= 0
            found[batch["texts"][there]] = np.asarray(self.compute(self.state, without_places(batch)))[there]
        return found.ravel().tolist()

    def warm_ups(self) -> list[dict[str, Any]]:
        """A batch of every shape: each is a program to compile."""
        return list({batch["tokens"].shape: batch for batch in self.rows}.values())

    def run(self, batch: dict[str, Any]) -> tuple[float, int]:
        """One step, or the vectors of one batch; gives seconds and useful tokens."""
        start, inputs = time.perf_counter(), without_places(batch)
        if self.work.task == "embedding":
            np.asarray(self.compute(self.state, inputs))
        else:
            self.state, metrics = self.compute(self.state, inputs)
            jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start, count_useful(batch)
