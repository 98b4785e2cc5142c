"""GPT's sizes, each with its source."""

import dataclasses
from typing import Literal

from core_jax.config import TransformerConfig, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptConfig(TransformerConfig):
    """GPT: a Transformer that reads from left to right, with token and position embeddings."""

    norm: Literal["pre", "post"] = "pre"  # side of a residual branch on which LayerNorm sits
    norm_epsilon: float = 1e-5  # added to the variance in LayerNorm
    gelu: Literal["erf", "tanh"] = "tanh"  # the original code's tanh approximation, or exact GELU
    # what kernels start from: as in GPT-2 a whole normal, divided by sqrt(2 x depth) where a residual branch ends; a
    # truncated normal; or uniform by their fans
    initializer: Literal["normal", "xavier", "gpt2"] = "gpt2"
    causal: bool = True  # whether a position sees only itself and those before it
    vocab_size: int = 50_257  # pieces of a vocabulary to train; one that is given brings its own number
    maximum_positions: int = 1024  # rows of the position table: the longest possible sequence

    def __post_init__(self):
        super().__post_init__()
        for name in ("vocab_size", "maximum_positions"):
            require(getattr(self, name) > 0, f"--{name}={getattr(self, name)}: expected a positive number")
        require(self.causal, "--causal=False: a GPT that sees what comes cannot learn to predict it; leave it out")


# Radford et al. 2019, table 2 (https://openai.com/index/better-language-models); heads as in the hparams.json of the
# published weights (https://github.com/openai/gpt-2). The table counts other parameters: those of section 2.3 are tied.
SMALL = GptConfig(width=768, depth=12, heads=12, mlp_width=3072)
MEDIUM = GptConfig(width=1024, depth=24, heads=16, mlp_width=4096)
LARGE = GptConfig(width=1280, depth=36, heads=20, mlp_width=5120)
XL = GptConfig(width=1600, depth=48, heads=25, mlp_width=6400)
# Ours, for minutes on two cores.
MINI = GptConfig(width=128, depth=4, heads=4, mlp_width=512, vocab_size=4096, maximum_positions=128)
SIZES = {"gpt-mini": MINI, "gpt2-small": SMALL, "gpt2-medium": MEDIUM, "gpt2-large": LARGE, "gpt2-xl": XL}
