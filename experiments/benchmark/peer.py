"""The peer: BERT of `transformers` in torch on the CPU, as a Trainer would run it. Only the peer's processes import it.

Training: `BertForPreTraining` with SDPA attention, AdamW in its fused form with the Trainer's two groups of parameters,
gradients clipped at norm 1, bfloat16 by autocast. Inference: `BertModel` in inference mode; for bfloat16 its weights
are in bfloat16, which is faster than autocast.

Axes: N pairs, D width.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from jaxtyping import Float

from bert_jax.config import BertConfig, BertPretraining
from bert_jax.peer_names import peer_name
from core_jax.config import OptimizerConfig
from core_jax.peer_names import PEER_GELUS, to_peer
from experiments.benchmark.modes import Mode
from experiments.benchmark.pairs import Pair, group_by_length, load_pairs, pad_to_longest, useful_tokens
from experiments.benchmark.workplace import Workplace


def build_model(config: BertPretraining, weights: dict[str, np.ndarray], *, attention: str = "sdpa") -> Any:
    """`BertForPreTraining` with our weights.

    Args:
      config: sizes and dropout.
      weights: ours, by path.
      attention: the peer's `attn_implementation`.
    """
    return take_weights(transformers.BertForPreTraining(peer_config(config.model, attention)), weights)


def peer_config(ours: BertConfig, attention: str = "sdpa", **more: Any) -> Any:
    """The peer's configuration of our sizes and dropout; `more` goes into it as it is."""
    make_config: Any = transformers.BertConfig  # its signature leaves out what goes on to its base class
    return make_config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.width,
        num_hidden_layers=ours.depth,
        num_attention_heads=ours.heads,
        intermediate_size=ours.mlp_width,
        hidden_act=PEER_GELUS[ours.gelu],
        hidden_dropout_prob=ours.dropout,
        attention_probs_dropout_prob=ours.attention_dropout,
        max_position_embeddings=ours.maximum_positions,
        type_vocab_size=ours.type_vocab_size,
        layer_norm_eps=ours.norm_epsilon,
        attn_implementation=attention,
        **more,
    )


def take_weights(model: Any, weights: dict[str, np.ndarray]) -> Any:
    """The peer's model, with our weights by path in it.

    Raises:
      ValueError: they are not those of the model.
    """
    parameters = dict(model.named_parameters())
    names = {peer_name(path) for path in weights}
    if names != parameters.keys():
        raise ValueError(f"parameters differ: {sorted(names ^ parameters.keys())}")
    with torch.no_grad():
        for path, value in weights.items():
            parameter = parameters[peer_name(path)]
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(to_peer(path, value, tuple(parameter.shape)))))
    return model


@dataclasses.dataclass
class Peer:
    """One mode of the peer, ready to measure."""

    mode: Mode
    work: Workplace
    module: Any
    model: Any  # the module as it is computed: perhaps compiled
    optimizer: Any = None

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "Peer":
        """Builds the model and, for training, its optimizer."""
        model = build_model(work.config(), work.weights())
        optimizer = None
        if work.task == "training":
            optimizer = make_optimizer(model, work.config().optimizer)
        else:
            model = model.bert.eval()
        return cls.ready(mode, work, model, optimizer)

    @classmethod
    def ready(cls, mode: Mode, work: Workplace, model: Any, optimizer: Any, *, lengths_vary: bool = True) -> Any:
        """A model as its mode computes it; without an optimizer its weights are in the type of computation."""
        if optimizer is None and mode.dtype == "bfloat16":
            model = model.to(torch.bfloat16)
        compiled = torch.compile(model, dynamic=lengths_vary) if mode.engine == "compile" else model
        return cls(mode, work, model, compiled, optimizer)

    def batches(self) -> dict[str, list[Any]]:
        """The peer's batches for each way to batch: as they come, and grouped by length."""
        batches = load_pairs(self.work.pairs_file)
        return {"dynamic": batches, "grouped": group_by_length(batches)}

    def tensors(self, pairs: Any) -> dict[str, Any]:
        """The arguments of the model for a batch."""
        arrays = pad_to_longest(pairs, self.work.pad_id)
        if self.work.task == "inference":
            del arrays["labels"], arrays["next_sentence_label"]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def warm_ups(self) -> list[list[Pair]]:
        """The first batch of each way to batch: the first that are grouped are the longest."""
        return [batches[0] for batches in self.batches().values()]

    def autocast(self) -> Any:
        """The peer's mixed precision, where this mode has it."""
        mixed = self.mode.dtype == "bfloat16" and self.optimizer is not None
        return torch.autocast("cpu", dtype=torch.bfloat16) if mixed else contextlib.nullcontext()

    def check(self) -> list[float]:
        """What must agree with ours on the first batch: the loss without dropout, or the pooled states."""
        pairs = load_pairs(self.work.pairs_file)[0]
        return self.pooled(pairs).ravel().tolist() if self.work.task == "inference" else [self.loss(pairs)]

    def loss(self, batch: Any) -> float:
        """Without dropout, and not compiled: that would be another compilation, of what is not measured."""
        self.module.eval()
        with torch.no_grad(), self.autocast():
            loss = self.module(**self.tensors(batch)).loss.item()
        self.module.train()
        return loss

    def count(self, pairs: Any) -> int:
        """What a rate counts of a batch."""
        return useful_tokens(pairs)

    def pooled(self, pairs: Sequence[Pair]) -> Float[np.ndarray, "N D"]:
        """The pooled states of some pairs."""
        with torch.inference_mode():
            return self.model(**self.tensors(pairs)).pooler_output.float().numpy()

    def run(self, pairs: Any) -> tuple[float, int]:
        """One step of training, or one forward pass; gives seconds and what was counted."""
        start = time.perf_counter()
        inputs = self.tensors(pairs)
        if self.optimizer is None:
            with torch.inference_mode():
                self.model(**inputs)
        else:
            with self.autocast():
                loss = self.model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.work.config().optimizer.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start, self.count(pairs)


def make_optimizer(model: Any, ours: OptimizerConfig) -> Any:
    """The Trainer's AdamW: weight decay on all but biases and LayerNorm."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": ours.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (ours.beta1, ours.beta2)
    return torch.optim.AdamW(groups, lr=ours.learning_rate, betas=betas, eps=ours.epsilon, fused=True)
