"""Makes what both sides read of generation: prompts of random tokens, and one set of weights."""

import dataclasses

import jax
import numpy as np

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig
from bert_jax.gpt_tasks import initial_params
from bert_jax.gpt_weights import write_hf
from core_jax.sharding import nested
from experiments.benchmark.material import noisy
from experiments.benchmark.modes import GENERATION, PROMPT
from experiments.benchmark.workplace import Workplace

BATCHES = 4


def make_generation_material(folder: str, config: GptConfig, batches: list[int]) -> None:
    """Writes all files of the `Workplace`s of generation.

    Args:
      folder: for the files.
      config: sizes of the model.
      batches: prompts at once, of each workplace.
    """
    config = dataclasses.replace(config, dropout=0.0, attention_dropout=0.0, scan_layers=False)
    weights = noisy(jax.jit(initial_params(Gpt(config)))(jax.random.key(0)))
    random = np.random.default_rng(0)
    for size in batches:
        work = Workplace(folder, GENERATION, size)
        work.save_config(config)
        np.save(work.prompts_file, random.integers(config.vocab_size, size=(BATCHES, size, PROMPT), dtype=np.int32))
    work = Workplace(folder, GENERATION, batches[0])  # all have the same model
    np.savez(work.weights_file, allow_pickle=False, **weights)
    write_hf(work.peer_folder, config, nested(weights))
