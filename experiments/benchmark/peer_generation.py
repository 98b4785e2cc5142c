"""The peer's side of generation: `GPT2LMHeadModel.generate` in torch on the CPU, greedy, by each kind of cache."""

import dataclasses
import time
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from experiments.benchmark.modes import NEW, PROMPT, Mode
from experiments.benchmark.workplace import Workplace

Batch = tuple[str, Any]  # kind of cache, prompts


@dataclasses.dataclass
class PeerGeneration:
    """One mode of the peer, ready to measure."""

    mode: Mode
    work: Workplace
    model: Any

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "PeerGeneration":
        """Opens the model, its weights in the type of computation."""
        transformers.utils.logging.disable_progress_bar()
        kind = transformers.GPT2LMHeadModel
        model: Any = kind.from_pretrained(work.peer_folder, attn_implementation="sdpa", dtype=mode.dtype)
        return cls(mode, work, model.eval())

    def batches(self) -> dict[str, list[Batch]]:
        """The same prompts for each kind of cache; only with a static one the peer compiles its step."""
        prompts = torch.from_numpy(np.load(self.work.prompts_file).astype(np.int64))
        kinds = ["static"] if self.mode.engine == "compile" else ["dynamic", "static"]
        return {f"{kind} cache": [(kind, batch) for batch in prompts] for kind in kinds}

    def warm_ups(self) -> list[Batch]:
        """A batch for each kind of cache."""
        return [batches[0] for batches in self.batches().values()]

    def check(self) -> list[float]:
        """What must agree with ours: logits after the first half of a prompt, and after all of it."""
        tokens = next(iter(self.batches().values()))[0][1]
        with torch.inference_mode():
            logits = self.model(tokens).logits[:, [PROMPT // 2 - 1, PROMPT - 1]].float().numpy()
        return np.concatenate((logits[:, 0], logits[:, 1])).ravel().tolist()

    def run(self, batch: Batch) -> tuple[float, int]:
        """Continues prompts; gives seconds and new tokens."""
        kind, tokens = batch
        options: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        if kind == "static":
            options["cache_implementation"] = "static"
        if self.mode.engine == "compile":
            config: Any = transformers.CompileConfig()
            config._compile_all_devices = True  # by default only on accelerators
            options["compile_config"] = config
        start = time.perf_counter()
        with torch.inference_mode():
            found = self.model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        return time.perf_counter() - start, found[:, tokens.shape[1] :].numel()
