"""GPT as a family that `experiments.pretrain` trains."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from bert_jax import gpt_pretraining, gpt_starting_weights, gpt_tasks, prepared_text
from bert_jax.gpt import Gpt
from bert_jax.gpt_answers import Answers
from bert_jax.gpt_config import GptPretraining, GptRun
from bert_jax.gpt_pretraining import TextRows
from bert_jax.pretraining import identity
from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.train import Metrics, State, compile_step, make_step


class GptFamily:
    """Prediction of the next token; the methods are those of `core_jax.family.Family`."""

    wording = Wording(
        held_out="documents",
        rows=(
            ("bits per byte", "bits_per_byte", "ngram_bits_per_byte"),
            ("perplexity of a token", "perplexity", "ngram_perplexity"),
            ("loss (nats a token)", "loss", "ngram_loss"),
            ("next token accuracy", "next_accuracy", ""),
        ),
        baselines="a 5-gram model, interpolated Kneser-Ney, counted from the training text",
        chances={},
        shown=("loss", "next_accuracy", "useful_tokens_per_second", "mfu"),
        unit="tokens",
        speed="useful_tokens_per_second",
        next_command='generate --init={workdir} "the capital of france is"',
    )

    def adopt(self, config: GptRun, report: Report) -> GptRun:
        """The sizes of what --init names."""
        return gpt_starting_weights.adopt_architecture(config, report)

    def check(self, config: GptPretraining, workdir: str) -> None:
        """Raises for mistakes in --init and in where the text comes from."""
        gpt_starting_weights.check_init(config.init)
        prepared_text.check_text(config, workdir)

    def model_ahead(self, config: GptPretraining) -> Gpt:
        """The model with the vocabulary that is given, or as large as one that is to be trained."""
        tokenizer = prepared_text.given_tokenizer(config)
        return gpt_pretraining.resolve_model(config.model, tokenizer) if tokenizer else Gpt(config.model)

    def batch_shapes(self, config: GptRun) -> dict[str, Any]:
        """Of packed rows."""
        return gpt_pretraining.batch_shapes(config)

    def units(self, config: GptRun) -> int:
        """Positions of a row."""
        return config.text.sequence_length

    def open_data(self, config: GptPretraining, workdir: str, report: Report) -> TextRows:
        """Text and vocabulary, kept in the work folder."""
        prepared_text.make_text(config, workdir, report)
        return gpt_pretraining.open_text(config, workdir)

    def name_of_rows(self, config: GptRun) -> str:
        """What documents are packed into."""
        del config
        return "packed rows"

    def model_for(self, config: GptRun, data: TextRows | Answers) -> Gpt:
        """The model with the vocabulary of the text."""
        return gpt_pretraining.resolve_model(config.model, data.tokenizer)

    def identity(self, data: TextRows | Answers) -> dict[str, str]:
        """The vocabulary."""
        return identity(data.tokenizer)

    def load_init(
        self, config: GptRun, model: Gpt, data: TextRows | Answers, fresh: PyTree, mesh: Mesh, report: Report
    ) -> PyTree:
        """The parameters of a run or of another program."""
        return gpt_starting_weights.load_init(config.init, model, data.tokenizer, fresh, mesh, report)

    def findings(self, config: GptPretraining, data: TextRows, workdir: str) -> list[str]:
        """Whether the text is small for the model."""
        del workdir
        parameters = sum(
            leaf.size
            for leaf in jax.tree.leaves(
                jax.eval_shape(self.initial_params(self.model_for(config, data)), jax.random.key(0))
            )
        )
        tokens, passes = int(data.train.lengths.sum()), config.training.steps * config.training.global_batch_size
        passes /= len(data.train)
        if passes <= 40 or parameters <= tokens:
            return []
        return [
            f"the text of {tokens:,} tokens is read {passes:,.0f} times by {parameters:,} parameters, which may "
            "learn it by heart: give more text, or fewer --steps"
        ]

    def initial_params(self, model: Gpt) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        return gpt_tasks.initial_params(model)

    def training_step(
        self, config: GptRun, model: Gpt, optimizer: optax.GradientTransformation, state: State
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        loss = gpt_tasks.next_token_loss(model, train=True)
        return compile_step(make_step(loss, optimizer, config.training.accumulation_steps), shardings)

    def model_flops(self, model: Gpt, batch: PyTree) -> float:
        """Those of rows that are full of one text each: shapes know of no text."""
        return float(gpt_tasks.whole_flops(model.config, batch))

    def make_evaluation(self, config: GptPretraining, model: Gpt, data: TextRows, mesh: Mesh) -> Evaluation:
        """The scoring of held-out text."""
        return gpt_pretraining.make_evaluation(model, data, config, mesh)

    def describe(self, data: TextRows) -> str:
        """Vocabulary, documents and rows."""
        rows, tokens = len(data.train), int(data.train.lengths.sum())
        padding = 1 - tokens / (rows * data.train.sequence_length)
        return (
            f"vocabulary {data.tokenizer.vocab_size:,}; {len(data.train_corpus):,} documents, {tokens:,} tokens in "
            f"{rows:,} rows ({100 * padding:.1f} % padding) to train on, {len(data.held_out_corpus):,} held out"
        )

    def summary(self, data: TextRows) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": data.tokenizer.vocab_size,
            "train_documents": len(data.train_corpus),
            "train_rows": len(data.train),
            "train_tokens": int(data.train.lengths.sum()),
            "held_out_documents": len(data.held_out_corpus),
        }

    def draw(
        self, config: GptRun, workdir: str, data: TextRows | Answers, evaluated: Evaluated, params: PyTree
    ) -> list[str]:
        """Nothing: TensorBoard has the curves."""
        del config, workdir, data, evaluated, params
        return []
