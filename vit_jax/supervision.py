"""What is learnt from the labels of images."""

import dataclasses
from typing import Literal

from core_jax.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisionConfig:
    """Classification: its loss, and what is done to images and labels before."""

    # softmax: one class is right; sigmoid: each class is asked for by itself
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0  # share of each label that is spread evenly over all classes
    # parameter of the Beta distribution of the share of another image that is mixed into each; 0: none
    mixup: float = 0.0
    # the same for the area of another image that is pasted into each; 0: none; with --mixup each batch has one of both
    cutmix: float = 0.0
    classes: int = 0  # outputs of the classifier; 0: as many as the data has
    head_bias: float = 0.0  # that the classifier starts from

    def __post_init__(self):
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, f"--label_smoothing={smoothing}: expected a share, at least 0 and below 1")
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"--{name}={getattr(self, name)}: expected 0 (off) or more")
        require(self.classes == 0 or self.classes > 1, f"--classes={self.classes}: expected 2 or more, or 0")
