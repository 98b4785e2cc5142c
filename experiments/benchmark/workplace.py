"""The files that the processes of one measurement share. NumPy only: the peer's processes read them, too."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from bert_jax.config import BertPretraining
from bert_jax.gpt_config import GptConfig
from core_jax.config import from_json, to_json
from experiments.benchmark.modes import GENERATION, IMAGES, LABELLED, Task
from vit_jax.presets import VitPretraining


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A folder with the weights and, for each length, the batches."""

    folder: str
    task: Task
    sequence_length: int  # of images: pixels of a side; of generation: prompts at once

    @property
    def pairs_file(self) -> pathlib.Path:
        """The pairs of each batch, or, of the tasks that have them, the labelled texts."""
        name = self.task if self.task in LABELLED else "pairs"
        return pathlib.Path(self.folder, f"{name}_{self.sequence_length}.npz")

    @property
    def rows_file(self) -> pathlib.Path:
        """The same batches as our packed rows, flattened into `batch/name`."""
        return pathlib.Path(self.folder, f"rows_{self.sequence_length}.npz")

    @property
    def _model(self) -> str:
        if self.task == GENERATION:
            return GENERATION
        return "labels" if self.task in LABELLED else "images" if self.task in IMAGES else "pretraining"

    @property
    def images_file(self) -> pathlib.Path:
        """Images, [batches, B, H, W, C], and their labels, [batches, B]."""
        return pathlib.Path(self.folder, "images.npz")

    @property
    def prompts_file(self) -> pathlib.Path:
        """Tokens of prompts, [batches, prompts at once, tokens]."""
        return pathlib.Path(self.folder, f"prompts_{self.sequence_length}.npy")

    @property
    def peer_folder(self) -> pathlib.Path:
        """Our ViT or GPT as `transformers` opens it."""
        return pathlib.Path(self.folder, "peer")

    @property
    def weights_file(self) -> pathlib.Path:
        """Our parameters by path."""
        return pathlib.Path(self.folder, f"{self._model}_weights.npz")

    @property
    def config_file(self) -> pathlib.Path:
        """The model and the recipe, and the id of the padding."""
        return pathlib.Path(self.folder, f"{self._model}_config_{self.sequence_length}.json")

    def save_config(self, config: BertPretraining | VitPretraining | GptConfig, pad_id: int | None = None) -> None:
        """Writes what both sides compute."""
        self.config_file.write_text(json.dumps({"config": to_json(config), "pad_id": pad_id}))

    def config(self) -> Any:
        """What both sides compute: a `VitPretraining` of images, a `GptConfig`, a `BertPretraining` otherwise."""
        kind = GptConfig if self.task == GENERATION else VitPretraining if self.task in IMAGES else BertPretraining
        return from_json(kind, json.loads(self.config_file.read_text())["config"])

    @property
    def pad_id(self) -> int:
        """The token that fills up."""
        return json.loads(self.config_file.read_text())["pad_id"]

    def weights(self) -> dict[str, np.ndarray]:
        """Our parameters by path."""
        with np.load(self.weights_file) as stored:
            return dict(stored)
