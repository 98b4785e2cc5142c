"""What a family of models gives so that it can be pretrained: `experiments.pretrain` and its like do the rest for all.

A `config` has the fields `preset`, `init`, `optimizer` and `training`; what `model` and `data` are only the family
knows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int32, Int64, Key, PyTree

from core_jax.data import Examples
from core_jax.train import Metrics, State

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What came of scoring held-out examples, each of which counts once."""

    scores: dict[str, float]
    confusion: Int64[np.ndarray, "K K"] | None = None  # of a classifier: examples by right class, then by class given
    # of the first batch: what is most probable at each place that is predicted; None where several hosts share it
    filled: Int32[np.ndarray, "B P"] | None = None


Evaluation = Callable[[PyTree, Callable[[], bool]], Evaluated | None]  # (params, stopping); None once that is true


@runtime_checkable
class Data(Protocol):
    """The data of a run."""

    @property
    def train(self) -> Examples:
        """What is trained on."""
        ...

    @property
    def held_out(self) -> Examples:
        """What is only scored."""
        ...


@dataclasses.dataclass(frozen=True)
class Wording:
    """What a family's results are called where a person reads them."""

    held_out: str  # what is scored, such as "documents"
    rows: tuple[tuple[str, str, str], ...]  # of the table of scores: label, the model's score, the baseline's
    baselines: str  # what the baselines are
    chances: dict[str, float]  # baselines that need no data, by name
    shown: tuple[str, ...]  # values beside the progress bar
    unit: str  # what speed is counted in
    speed: str  # name of the rate that is printed
    next_command: str  # to type, of experiments; {workdir} stands for the run


@runtime_checkable
class Family(Protocol):
    """A family of models; every method is a pure function of its arguments and of files."""

    wording: Wording

    def adopt(self, config: Any, report: Report) -> Any:
        """The configuration with the sizes of what --init names, where that sets them; says what it changed."""
        ...

    def check(self, config: Any, workdir: str) -> None:
        """Refuses what cannot work before any data is read; raises UserError."""
        ...

    def model_ahead(self, config: Any) -> Any:
        """The model before there is data, as near as it can be known."""
        ...

    def batch_shapes(self, config: Any) -> dict[str, Any]:
        """Shapes and dtypes of the global batch."""
        ...

    def units(self, config: Any) -> int:
        """How much of `wording.unit` a row of the global batch is."""
        ...

    def open_data(self, config: Any, workdir: str, report: Report) -> Data:
        """The data of a run, made where it is not there yet; raises UserError."""
        ...

    def name_of_rows(self, config: Any) -> str:
        """What the rows of a batch are called."""
        ...

    def model_for(self, config: Any, data: Any) -> Any:
        """The model for the data."""
        ...

    def identity(self, data: Any) -> dict[str, str]:
        """What checkpoints belong to beside their shapes."""
        ...

    def load_init(self, config: Any, model: Any, data: Any, fresh: PyTree, mesh: Mesh, report: Report) -> PyTree:
        """The parameters that --init names, on the mesh, completed from `fresh` ones; raises UserError."""
        ...

    def findings(self, config: Any, data: Any, workdir: str) -> list[str]:
        """What in the data or the settings may keep the model from learning."""
        ...

    def initial_params(self, model: Any) -> Callable[[Key[Array, ""]], PyTree]:
        """key -> fresh parameters."""
        ...

    def training_step(
        self, config: Any, model: Any, optimizer: optax.GradientTransformation, state: State
    ) -> Callable[..., tuple[State, Metrics]]:
        """The jitted step, for a state whose shapes know where they live."""
        ...

    def model_flops(self, model: Any, batch: PyTree) -> float:
        """Operations that a step needs on a batch of these shapes, over all devices: no remat."""
        ...

    def make_evaluation(self, config: Any, model: Any, data: Any, mesh: Mesh) -> Evaluation:
        """The scoring of held-out examples."""
        ...

    def describe(self, data: Any) -> str:
        """The data in a few words."""
        ...

    def summary(self, data: Any) -> dict[str, Any]:
        """What summary.json says of the data."""
        ...

    def draw(self, config: Any, workdir: str, data: Any, evaluated: Evaluated, params: PyTree) -> list[str]:
        """Draws the pictures that a run ends with these parameters; gives their paths.

        Every process calls it, since the parameters may lie across them; the first one writes.
        """
        ...
