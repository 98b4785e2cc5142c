"""What `experiments.finetune --task=answers` does: a pretrained GPT learns to answer prompts.

It is training as in `experiments.pretrain`, from the sizes and the vocabulary of what --init names.
"""

from bert_jax.gpt_config import ANSWERS, GptAnswers
from experiments import pretrain
from experiments.console import parse_flags
from experiments.finetune_images import without_task

TASK = "answers"
DESCRIPTION = "Fine-tunes a pretrained GPT to answer prompts: the loss is that of the answers alone."


def main(arguments: list[str]) -> int:
    """Trains, scores and reports; returns the exit code."""
    config = parse_flags(GptAnswers, without_task(arguments), DESCRIPTION, ANSWERS)
    return pretrain.run(config, config.training.workdir or f"runs/{TASK}")
