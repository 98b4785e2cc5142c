"""Our side of generation: what `experiments.generate` runs, greedy."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.generation import Generator
from bert_jax.generation_settings import GenerationSettings, Shape
from bert_jax.gpt import Gpt, decode_step, prefill
from core_jax.layers import in_compute_dtype
from core_jax.sharding import nested, parse_mesh
from experiments.benchmark.modes import NEW, PROMPT, Mode
from experiments.benchmark.workplace import Workplace

NO_END = -1  # every text has as many tokens


@dataclasses.dataclass
class OurGeneration:
    """One of our modes, ready to measure."""

    work: Workplace
    model: Gpt
    params: Any
    generator: Generator

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "OurGeneration":
        """Loads the weights."""
        model = Gpt(dataclasses.replace(work.config(), dtype=mode.dtype))
        params = in_compute_dtype(jax.tree.map(jnp.asarray, nested(work.weights())), mode.dtype)
        mesh, settings = parse_mesh("data:1", jax.devices()[:1]), GenerationSettings(max_new_tokens=NEW)
        lengths = [PROMPT] * work.sequence_length
        shape = Shape.of(lengths, settings, model.config.maximum_positions, work.sequence_length, mesh)
        pieces = {"pieces": model.config.vocab_size, "end_ids": (NO_END,)}
        return cls(work, model, params, Generator(model, params, settings, shape, mesh, **pieces))

    def batches(self) -> dict[str, list[list[list[int]]]]:
        """Batches of prompts."""
        return {"static cache": np.load(self.work.prompts_file).tolist()}

    def warm_ups(self) -> list[list[list[int]]]:
        """A batch."""
        return self.batches()["static cache"][:1]

    def check(self) -> list[float]:
        """What must agree with the peer: logits after the first half of a prompt and, by the cache, after all of it."""
        tokens = jnp.asarray(np.load(self.work.prompts_file)[0])
        half = PROMPT // 2

        @jax.jit
        def logits(params, tokens):
            def step(cache, token):
                logits, cache = decode_step(self.model, params, token, cache)
                return cache, logits

            first, cache = prefill(self.model, params, tokens[:, :half], jnp.ones((len(tokens), half), bool), PROMPT)
            _, later = jax.lax.scan(step, cache, tokens[:, half:].T)
            return first, later[-1]

        return np.concatenate(logits(self.params, tokens), dtype=np.float32).ravel().tolist()

    def run(self, batch: list[list[int]]) -> tuple[float, int]:
        """Continues prompts; gives seconds and new tokens."""
        start = time.perf_counter()
        found = self.generator.write(batch, range(len(batch)))
        return time.perf_counter() - start, sum(len(one.tokens) for several in found for one in several)
