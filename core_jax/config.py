"""Frozen configuration: every run is described by these dataclasses, refused early if they make no sense.

The comment beside a field is its `--help` text.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_type_hints

from core_jax.errors import UserError

Config = TypeVar("Config")
ELASTIC = {"elastic": True}  # metadata of fields that may change when a run goes on: they do not change what is learnt


def require(condition: bool, message: str) -> None:
    """Raises UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """One stack of Transformer blocks."""

    width: int  # size of the hidden states
    depth: int  # number of layers
    heads: int  # attention heads; each is width / heads wide
    mlp_width: int  # size of the hidden layer of each MLP
    norm: Literal["pre", "post"]  # side of a residual branch on which LayerNorm sits: BERT "post", ViT and GPT "pre"
    norm_epsilon: float  # added to the variance in LayerNorm
    # between the two layers of each MLP: exact GELU or its tanh approximation; in a translator also ReLU or Swish
    gelu: Literal["erf", "tanh", "relu", "swish"]
    dropout: float = 0.1  # probability of dropping a unit of the embeddings and of each branch's output
    attention_dropout: float = 0.1  # probability of dropping an attention weight
    # what kernels start from: a truncated normal; uniform by their fans (Glorot and Bengio 2010); or, as in GPT-2, a
    # whole normal, divided by sqrt(2 x depth) where a residual branch ends; or, as in T5, 1 / sqrt(inputs), tables 1
    initializer: Literal["normal", "xavier", "gpt2", "t5"] = "normal"
    initializer_range: float = 0.02  # standard deviation of the normal
    # probability of dropping a whole branch of an example in the last layer; it rises from 0 in the first
    stochastic_depth: float = 0.0
    layer_scale: float = 0.0  # what learnt factors on the outputs of branches start from; 0: there are none
    qk_norm: bool = False  # LayerNorm on the queries and keys of each head
    causal: bool = False  # whether a position sees only itself and those before it: GPT; BERT and ViT see all
    scan_layers: bool = False  # one compiled layer run `depth` times: compiles faster, parameters are stacked
    # what the backward pass computes again instead of keeping: nothing, all but matrix products, or everything
    remat: Literal["none", "dots", "full"] = dataclasses.field(default="none", metadata=ELASTIC)
    # attention implementation; "auto" picks the fastest that the device and the options allow
    attention: Literal["auto", "reference", "xla", "fused", "splash", "cudnn"] = dataclasses.field(
        default="auto", metadata=ELASTIC
    )
    # type of computation, parameters stay float32; "auto": bfloat16 on TPU and GPU, float32 on CPU
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    # What makes blocks those of T5; without annotations, since only a subclass that has it makes a flag of it.
    norm_kind = "layer"  # or "rms": no mean is subtracted, no bias added (Zhang and Sennrich 2019)
    use_bias = True  # whether linear layers have biases
    mlp_kind = "plain"  # or "gated": what GELU gives is multiplied by another linear layer (Shazeer 2020)
    mlp_dropout = 0.0  # probability of dropping a unit between the layers of each MLP
    head_width = 0  # of each head; 0: width / heads
    scale_queries = True  # whether products of queries and keys are divided by the root of the head's width
    relative_buckets = 0  # into which distances fall, each of which has a learnt bias in attention; 0: there is none
    relative_distance = 128  # from which on all are one bucket

    @property
    def head_size(self) -> int:
        """The width of each head."""
        return self.head_width or self.width // self.heads

    def __post_init__(self):
        for name in ("width", "depth", "heads", "mlp_width"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        for name in ("dropout", "attention_dropout", "stochastic_depth"):
            rate = getattr(self, name)
            require(0 <= rate < 1, f"--{name}={rate}: expected a probability, at least 0 and below 1")
        require(
            not (self.attention_dropout and self.attention in ("xla", "splash", "cudnn")),
            f"--attention={self.attention} cannot drop attention weights: add --attention_dropout=0, "
            "or use --attention=auto",
        )
        require(
            bool(self.head_width) or self.width % self.heads == 0,
            f"--width={self.width} does not divide into --heads={self.heads}: "
            f"use a number of heads that divides {self.width}, such as {nearest_divisor(self.width, self.heads)}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, LAMB or SGD, with a learning rate that warms up and decays."""

    # LAMB scales each layer's step, for very large batches; SGD has momentum (--beta1), and suits fine-tuning of ViT
    optimizer: Literal["adamw", "lamb", "sgd"] = "adamw"
    learning_rate: float = 1e-4  # the highest, reached at the end of the warm-up
    warmup_steps: int = 10_000  # steps over which the learning rate rises from 0
    # shape after the warm-up; "wsd" is constant, then linear over the last `decay_fraction` of the steps
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = "linear"
    final_fraction: float = 0.0  # share of --learning_rate that is left at the last step
    decay_fraction: float = 0.2  # share of the steps in which "wsd" decays
    weight_decay: float = 0.01  # not on biases and LayerNorm; multiplied by the learning rate
    beta1: float = 0.9  # decay of Adam's first moment, or of the momentum of SGD
    beta2: float = 0.999  # decay of Adam's second moment
    epsilon: float = 1e-6  # added to the root of the second moment
    # type in which Adam's first moment is kept; the second stays float32: bfloat16 would round its small changes away
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    bias_correction: bool = True  # False: Adam as in the original BERT
    clip_norm: float = 1.0  # largest norm of the whole gradient, measured after the all-reduce; 0 turns it off
    # factor on the learning rate of each layer beside that of the layer above it; 1: all learn alike
    layer_decay: float = 1.0
    # pattern (regular expression) of the parameters that stay as they are, such as stem|embeddings|block_[0-5]/
    freeze: str = ""
    # LoRA: rank of the product of two thin matrices by which kernels change, and nothing else does; 0: all is trained
    lora_rank: int = 0
    lora_alpha: float = 16.0  # the product is multiplied by lora_alpha / lora_rank
    lora_targets: str = "attention/(query|value)/"  # pattern of the kernels that have such matrices
    lora_whole: str = "classifier|head|pooler"  # pattern of the parameters that are trained whole beside them

    def __post_init__(self):
        require(self.learning_rate >= 0, f"--learning_rate={self.learning_rate}: expected 0 or more")
        require(self.warmup_steps >= 0, f"--warmup_steps={self.warmup_steps}: expected 0 or more")
        require(self.clip_norm >= 0, f"--clip_norm={self.clip_norm}: expected 0 (off) or more")
        require(0 < self.layer_decay <= 1, f"--layer_decay={self.layer_decay}: expected more than 0, and at most 1")
        require(self.lora_rank >= 0, f"--lora_rank={self.lora_rank}: expected 0 (no LoRA) or more, such as 8")
        require(self.lora_alpha > 0, f"--lora_alpha={self.lora_alpha}: expected a positive number")
        for name in ("freeze", "lora_targets", "lora_whole"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise UserError(f"--{name}={getattr(self, name)}: not a regular expression ({error})") from None
        for name in ("final_fraction", "decay_fraction"):
            require(0 <= getattr(self, name) <= 1, f"--{name}={getattr(self, name)}: expected a share, 0 to 1")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"--{name}={getattr(self, name)}: expected at least 0 and below 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, on what devices, and what is kept."""

    steps: int = dataclasses.field(default=1_000_000, metadata=ELASTIC)  # optimizer steps in all
    # rows a step, over all devices and hosts: one example each, or, with --packing=True, as many as fit into it
    global_batch_size: int = 256
    # parts that each batch is computed in, one after another: the same result in less memory
    accumulation_steps: int = dataclasses.field(default=1, metadata=ELASTIC)
    # share that each step keeps of a moving average of the parameters, such as 0.9999; what is scored and used is then
    # the average. 0: there is none
    ema_decay: float = 0.0
    seed: int = 0  # everything random follows from it
    # devices by axis: data (replicas), fsdp (batch and parameters), tensor (heads, MLP width, vocabulary); -1: the rest
    mesh: str = dataclasses.field(default="data:-1", metadata=ELASTIC)
    # processes on each host that draw examples, with the same result; 0: threads of the training process; -1: as many
    # as are worth it, none where the devices are CPUs
    data_workers: int = dataclasses.field(default=-1, metadata=ELASTIC)
    # compile the step for a TPU slice that is not here, such as v5e-256 or v5e:16x16; report, do not train
    plan: str = dataclasses.field(default="", metadata=ELASTIC)
    # with --plan: compile several batch sizes with every --remat, and compare the largest that fit; takes minutes
    plan_search: bool = dataclasses.field(default=False, metadata=ELASTIC)
    # work folder: everything that the run leaves; by default runs/PRESET
    workdir: str = dataclasses.field(default="", metadata=ELASTIC)
    log_every: int = dataclasses.field(default=100, metadata=ELASTIC)  # steps between lines of metrics.jsonl
    evaluate_every: int = dataclasses.field(default=10_000, metadata=ELASTIC)  # steps between held-out scores; 0: end
    checkpoint_every: int = dataclasses.field(default=1_000, metadata=ELASTIC)  # steps between checkpoints; 0: end
    keep_checkpoints: int = dataclasses.field(default=3, metadata=ELASTIC)  # how many of the newest stay
    # without a sign of life, after which one of several processes counts as dead, and the run ends on all
    silence_seconds: int = dataclasses.field(default=60, metadata=ELASTIC)
    # seconds in which no step ends, after which every host says where it is and writes its Python stacks; 0: never
    hang_limit: int = dataclasses.field(default=1800, metadata=ELASTIC)

    def __post_init__(self):
        counts = ("steps", "global_batch_size", "accumulation_steps", "log_every", "keep_checkpoints")
        for name in (*counts, "silence_seconds"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        for name in ("evaluate_every", "checkpoint_every"):
            require(getattr(self, name) >= 0, f"--{name}={getattr(self, name)}: expected 0 (only at the end) or more")
        require(
            bool(self.plan) or not self.plan_search,
            "--plan_search=True needs a slice to search on, such as --plan=v5e-8",
        )
        require(self.hang_limit >= 0, f"--hang_limit={self.hang_limit}: expected seconds, or 0 (never)")
        require(self.data_workers >= -1, f"--data_workers={self.data_workers}: expected a number, 0 or more, or -1")
        require(0 <= self.ema_decay < 1, f"--ema_decay={self.ema_decay}: expected at least 0 and below 1")
        require(0 <= self.seed < 2**31, f"--seed={self.seed}: expected a whole number from 0 to {2**31 - 1}")
        require(
            self.global_batch_size % self.accumulation_steps == 0,
            f"--global_batch_size={self.global_batch_size} does not divide into "
            f"--accumulation_steps={self.accumulation_steps}: make the batch a multiple of it",
        )


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is closest to `wanted`."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))


def to_json(config: Any) -> str:
    """A config (dataclass of dataclasses) as text that `from_json` reads back to an equal object."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def from_json(kind: type[Config], text: str) -> Config:
    """Reads what `to_json` wrote.

    Args:
      kind: the dataclass to build.
      text: JSON of its fields.
    Returns:
      The config, checked by its own `__post_init__`.
    Raises:
      UserError: the text holds fields that `kind` does not have.
    """
    return _build(kind, json.loads(text))


def _build(kind, fields):
    hints = get_type_hints(kind)
    require(isinstance(fields, dict), f"config.json: expected the fields of {kind.__name__}, found {fields!r}")
    unknown = sorted(fields.keys() - {field.name for field in dataclasses.fields(kind)})
    require(not unknown, f"config.json has fields that {kind.__name__} does not know: {', '.join(unknown)}")
    nested = {
        name: _build(hints[name], value) for name, value in fields.items() if dataclasses.is_dataclass(hints[name])
    }
    return kind(**fields | nested)


def differences(ours: Any, theirs: Any) -> dict[str, tuple[Any, Any]]:
    """The fields, other than elastic ones, in which two configs of one kind differ: {name: (ours, theirs)}."""
    found = {}
    for field in dataclasses.fields(ours):
        pair = getattr(ours, field.name), getattr(theirs, field.name)
        if dataclasses.is_dataclass(pair[0]):
            found |= differences(*pair)
        elif pair[0] != pair[1] and not field.metadata.get("elastic"):
            found[field.name] = pair
    return found


def adopt_fields(config: Config, found: Mapping[str, Mapping[str, Any]], report: Callable[[str], None]) -> Config:
    """A configuration with what its --init sets.

    Args:
      config: with a `preset` and an `init`.
      found: by part of the configuration, such as model: fields and what they are at `init`.
      report: is told which differed.
    """
    parts: Any = {part: getattr(config, part) for part in found}
    changed = [
        f"{name} {value}"
        for part, values in found.items()
        for name, value in values.items()
        if value != getattr(parts[part], name)
    ]
    named: Any = config
    if changed:
        report(f"--init={named.init} sets, instead of {named.preset}: {', '.join(changed)}")
    return dataclasses.replace(named, **{part: dataclasses.replace(parts[part], **found[part]) for part in found})
