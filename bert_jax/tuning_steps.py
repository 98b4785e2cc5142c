"""How many steps a run of fine-tuning takes, and its warm-up among them."""

import dataclasses

from bert_jax.finetuning_config import BertFinetuning, TuningConfig
from core_jax.config import OptimizerConfig


def epoch_steps(tuning: TuningConfig, examples: int) -> int:
    """Steps of an epoch over so many examples."""
    return max(1, round(examples / tuning.global_batch_size))


def all_steps(tuning: TuningConfig, examples: int) -> int:
    """Steps of a run."""
    return max(1, round(tuning.epochs * epoch_steps(tuning, examples)))


def with_warmup(config: BertFinetuning, steps: int) -> OptimizerConfig:
    """The optimizer of a run, with its warm-up in steps."""
    warmup = config.optimizer.warmup_steps or round(config.tuning.warmup_fraction * steps)
    return dataclasses.replace(config.optimizer, warmup_steps=warmup)
