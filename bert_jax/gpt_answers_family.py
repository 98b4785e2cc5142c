"""Answering as a family that `experiments.finetune --task=answers` trains: a GPT, and pairs in place of text."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from bert_jax import gpt_pretraining, gpt_starting_weights
from bert_jax.gpt import Gpt
from bert_jax.gpt_answers import given_vocabulary, open_answers
from bert_jax.gpt_family import GptFamily
from core_jax.config import require
from core_jax.family import Evaluated, Evaluation, Report, Wording
from core_jax.labelled_data import check_records


class GptAnswersFamily(GptFamily):
    """Prediction of answers; what is not here is as in pretraining."""

    wording = Wording(
        held_out="pairs",
        rows=(
            ("perplexity of an answer's token", "perplexity", ""),
            ("loss (nats a token of an answer)", "loss", ""),
            ("next token accuracy", "next_accuracy", ""),
        ),
        baselines="",
        chances={},
        shown=("loss", "next_accuracy", "useful_tokens_per_second", "mfu"),
        unit="tokens",
        speed="useful_tokens_per_second",
        next_command='generate --init={workdir} "PROMPT"',
    )

    def check(self, config: Any, workdir: str) -> None:
        """Raises for mistakes in --init and in where the pairs come from."""
        del workdir
        require(bool(config.init), "--init=: expected a GPT to start from: hf:DIR, or the work folder of a run")
        gpt_starting_weights.check_init(config.init)
        source = config.text
        columns = source.prompt_column, source.answer_column
        require(bool(source.data), "--data=: expected pairs, such as --data=jsonl:questions.jsonl")
        for data in filter(None, (source.data, source.validation_data)):
            check_records(data, columns, split=source.data_split, data_dir=source.data_dir or None)

    def model_ahead(self, config: Any) -> Gpt:
        """The model with the vocabulary of --init."""
        return gpt_pretraining.resolve_model(config.model, given_vocabulary(config.init))

    def open_data(self, config: Any, workdir: str, report: Report) -> Any:
        """Pairs, and the vocabulary of --init, which is kept in the work folder."""
        data = open_answers(config, workdir)
        if data.left_out:
            report(f"{data.left_out:,} pairs are longer than --sequence_length={config.text.sequence_length}: left out")
        return data

    def findings(self, config: Any, data: Any, workdir: str) -> list[str]:
        """Nothing: a few thousand pairs are enough to teach a pretrained model a task."""
        del config, data, workdir
        return []

    def make_evaluation(self, config: Any, model: Gpt, data: Any, mesh: Mesh) -> Evaluation:
        """The scoring of held-out answers."""
        score = gpt_pretraining.row_scoring(model, data.held_out, config.training.global_batch_size, mesh)

        def evaluate(params: PyTree, stopping: Callable[[], bool]) -> Evaluated | None:
            found = score(params, stopping)
            if found is None:
                return None
            loss, scores = found
            return Evaluated({"loss": loss, "perplexity": float(np.exp(loss)), **scores})

        return evaluate

    def describe(self, data: Any) -> str:
        """Vocabulary and pairs."""
        rows, tokens = len(data.train), int(data.train.lengths.sum())
        padding = 100 * (1 - tokens / (rows * data.train.sequence_length))
        return (
            f"vocabulary {data.tokenizer.vocab_size:,}; {data.train.pairs:,} pairs in {rows:,} rows "
            f"({padding:.1f} % padding) to train on, {data.held_out.pairs:,} held out"
        )

    def summary(self, data: Any) -> dict[str, Any]:
        """Sizes."""
        return {
            "vocab_size": data.tokenizer.vocab_size,
            "train_pairs": data.train.pairs,
            "train_rows": len(data.train),
            "held_out_pairs": data.held_out.pairs,
        }
