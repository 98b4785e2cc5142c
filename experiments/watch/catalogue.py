"""What metrics are called, how they are written, what they are held against, and where in the page they stand."""

import dataclasses
from collections.abc import Set
from typing import Literal

Group = Literal["learning", "optimizer", "speed"]
Format = Literal["percent", "number", "rate"]

BASELINES = {  # what a model reaches that looks at no context; the first that a run has recorded counts
    "mlm_accuracy": ("unigram_accuracy",),
    "mlm_loss": ("unigram_loss",),
    "nsp_accuracy": ("chance_accuracy",),
    "nsp_loss": ("chance_loss",),
    "accuracy": ("majority_accuracy",),
    "loss": ("frequency_loss", "blind_loss"),
}
CHANCES = {"chance_accuracy": 0.5, "chance_loss": 0.6931471805599453}  # of next sentence prediction; a run records none
BASELINE_NAMES = {name for names in BASELINES.values() for name in names}
OPTIMIZER = {"learning_rate", "gradient_norm"}
SHARES = ("mfu", "hardware_flops_utilization", "useful_positions", "useful_images", "useful_seconds", "useful_flops")
TITLES = {
    "accuracy": "accuracy",
    "f1": "F1",
    "gradient_norm": "gradient norm",
    "hardware_flops_utilization": "hardware utilization (HFU)",
    "images_per_second": "images a second",
    "learning_rate": "learning rate",
    "matthews": "Matthews' correlation",
    "mfu": "model utilization (MFU)",
    "micro_f1": "micro F1",
    "mlm_accuracy": "MLM accuracy",
    "mlm_loss": "MLM loss",
    "model_flops_per_second": "operations a second",
    "nsp_accuracy": "NSP accuracy",
    "nsp_loss": "NSP loss",
    "seconds_of_sound_per_second": "seconds of sound a second",
    "steps_per_second": "steps a second",
    "top5_accuracy": "top-5 accuracy",
    "useful_flops": "operations on useful positions",
    "useful_images": "readable images",
    "useful_positions": "positions that are no padding",
    "useful_seconds": "sound that is no padding",
    "useful_tokens_per_second": "useful tokens a second",
}
ORDER = (  # of panels and scores; what is not here follows, by name
    *("loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "accuracy", "top5_accuracy", "f1", "micro_f1"),
    *("learning_rate", "gradient_norm"),
    *(
        "useful_tokens_per_second",
        "images_per_second",
        "seconds_of_sound_per_second",
        "mfu",
        "hardware_flops_utilization",
        "steps_per_second",
    ),
    *("model_flops_per_second", *SHARES[2:]),
)
UNNOTICED = {"goodput"}  # the share of steps by another name


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown."""

    name: str
    title: str
    unit: str  # beside the title; empty where it has none
    group: Group
    format: Format
    smooths: bool  # whether training scatters about a curve; a schedule does not

    def text(self, value: float) -> str:
        """A value as a person reads it."""
        if self.format == "percent":
            return f"{100 * value:.2f} %"
        if self.format == "rate" and abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.4g}" if self.group != "learning" else f"{value:.4f}"


def describe(name: str) -> Metric:
    """How the metric of a name is shown."""
    is_rate = name.endswith("_per_second")
    group: Group = "learning"
    if name in OPTIMIZER:
        group = "optimizer"
    elif is_rate or name in SHARES:
        group = "speed"
    shown: Format = "number"
    if name in SHARES or name.endswith(("accuracy", "share")):
        shown = "percent"
    elif is_rate:
        shown = "rate"
    unit = "nats" if name in ("mlm_loss", "nsp_loss") else ""
    title = TITLES.get(name, name.replace("_", " "))
    return Metric(name, title, unit, group, shown, smooths=name != "learning_rate")


def is_curve(name: str) -> bool:
    """Whether a metric has a panel of its own: baselines are lines in others, the split of time is drawn as bars."""
    return name not in BASELINE_NAMES | UNNOTICED and not name.endswith("_share")


def ordered(names: Set[str]) -> list[str]:
    """Names of metrics in the order in which they are shown."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
