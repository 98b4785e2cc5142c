"""BERT as a family that `experiments.pretrain` trains."""

import os
from collections.abc import Callable
from typing import Any

import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from bert_jax import prepared_text, pretraining, tasks
from bert_jax.config import BertPretraining
from bert_jax.corpus_report import corpus_figures
from bert_jax.diagnosis import corpus_findings, training_findings
from bert_jax.filled_masks import FILLED_MASKS, save_filled_masks
from bert_jax.model import BertForPretraining
from bert_jax.model_flops import whole_flops
from bert_jax.packed_pairs import PackedPairs
from bert_jax.pretraining import Text
from bert_jax.starting_weights import adopt_architecture, check_init, load_init
from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.train import Metrics, State

SAMPLED_ROWS = 200  # of packed ones, to tell how full they are


class BertFamily:
    """Masked language modelling and next sentence prediction; the methods are those of `core_jax.family.Family`."""

    wording = Wording(
        held_out="documents",
        rows=(
            ("MLM accuracy", "mlm_accuracy", "unigram_accuracy"),
            ("MLM loss (nats)", "mlm_loss", "unigram_loss"),
            ("NSP accuracy", "nsp_accuracy", "chance_accuracy"),
            ("NSP loss (nats)", "nsp_loss", "chance_loss"),
        ),
        baselines="the frequencies of words in the training text; a fair coin",
        chances={"chance_accuracy": 0.5, "chance_loss": 0.6931471805599453},  # log 2
        shown=("loss", "mlm_accuracy", "nsp_accuracy", "useful_tokens_per_second", "mfu"),
        unit="tokens",
        speed="useful_tokens_per_second",
        next_command='predict --init={workdir} "the capital of france is [MASK]."',
    )

    def adopt(self, config: BertPretraining, report: Report) -> BertPretraining:
        """The sizes of a checkpoint of another program."""
        return adopt_architecture(config, report)

    def check(self, config: BertPretraining, workdir: str) -> None:
        """Raises for mistakes in --init and in where the text comes from."""
        check_init(config.init)
        prepared_text.check_text(config, workdir)

    def model_ahead(self, config: BertPretraining) -> BertForPretraining:
        """The model with the vocabulary that is given, or as large as one that is to be trained."""
        tokenizer = prepared_text.given_tokenizer(config)
        return pretraining.resolve_model(config.model, tokenizer) if tokenizer else BertForPretraining(config.model)

    def batch_shapes(self, config: BertPretraining) -> dict[str, Any]:
        """Of rows of text."""
        return pretraining.batch_shapes(config)

    def units(self, config: BertPretraining) -> int:
        """Positions of a row."""
        return config.text.sequence_length

    def open_data(self, config: BertPretraining, workdir: str, report: Report) -> Text:
        """Text and vocabulary, kept in the work folder."""
        return pretraining.prepare_text(config, workdir, report)

    def name_of_rows(self, config: BertPretraining) -> str:
        """Examples, or what several are packed into."""
        return "packed rows" if config.text.packing else "examples"

    def model_for(self, config: BertPretraining, data: Text) -> BertForPretraining:
        """The model with the vocabulary of the text."""
        return pretraining.resolve_model(config.model, data.tokenizer)

    def identity(self, data: Text) -> dict[str, str]:
        """The vocabulary."""
        return pretraining.identity(data.tokenizer)

    def load_init(
        self,
        config: BertPretraining,
        model: BertForPretraining,
        data: Text,
        fresh: PyTree,
        mesh: Mesh,
        report: Report,
    ) -> PyTree:
        """The parameters of a run or of another program."""
        return load_init(config.init, model, data.tokenizer, fresh, mesh, report)

    def findings(self, config: BertPretraining, data: Text, workdir: str) -> list[str]:
        """What may keep the loss high."""
        figures = corpus_figures(prepared_text.corpus_folder(config, workdir), data.tokenizer)
        return [str(finding) for finding in (*corpus_findings(figures), *training_findings(config, figures))]

    def initial_params(self, model: BertForPretraining) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return tasks.initial_params(model)

    def training_step(
        self,
        config: BertPretraining,
        model: BertForPretraining,
        optimizer: optax.GradientTransformation,
        state: State,
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        steps, weight = config.training.accumulation_steps, config.next_sentence_weight
        return tasks.training_step(model, optimizer, state, steps, weight)

    def model_flops(self, model: BertForPretraining, batch: PyTree) -> float:
        """Those of rows that are full of one segment each: shapes know of no text."""
        return float(whole_flops(model.config, batch))

    def make_evaluation(self, config: BertPretraining, model: BertForPretraining, data: Text, mesh: Mesh) -> Evaluation:
        """The scoring of held-out text."""
        return pretraining.make_evaluation(model, data, config, mesh)

    def describe(self, data: Text) -> str:
        """Vocabulary and number of examples."""
        train = f"{len(data.train):,} examples"
        if isinstance(data.train, PackedPairs):
            pairs, rows = len(data.train.pairs), len(data.train)
            per_row, padding = data.train.measure(range(0, rows, -(-rows // SAMPLED_ROWS)))
            train = f"{pairs:,} examples in {rows:,} rows ({per_row:.2f} pairs a row, {100 * padding:.1f} % padding)"
        return f"vocabulary {data.tokenizer.vocab_size:,}; {train} to train on, {len(data.held_out):,} held out"

    def summary(self, data: Text) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": data.tokenizer.vocab_size,
            "train_examples": len(data.train.pairs if isinstance(data.train, PackedPairs) else data.train),
            "train_rows": len(data.train),
            "held_out_examples": len(data.held_out),
        }

    def draw(
        self, config: BertPretraining, workdir: str, data: Text, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """How some held-out text is filled, as text; TensorBoard has the curves."""
        del config, params
        if evaluated.filled is None:  # as of a run of several processes
            return []
        path = os.path.join(workdir, FILLED_MASKS)
        save_filled_masks(path, data.held_out, data.tokenizer, evaluated.filled)
        return [path]
