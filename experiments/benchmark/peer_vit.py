"""The peer's side of images: `ViTForImageClassification` in torch on the CPU, otherwise as `peer` runs BERT."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from experiments.benchmark.modes import Mode
from experiments.benchmark.peer import Peer, make_optimizer
from experiments.benchmark.workplace import Workplace


class PeerVit(Peer):
    """One mode of the peer, ready to measure."""

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "PeerVit":
        """Opens the model and, for training, makes its optimizer."""
        transformers.utils.logging.disable_progress_bar()
        ours = work.config().model
        model: Any = transformers.ViTForImageClassification.from_pretrained(
            work.peer_folder,
            attn_implementation="sdpa",
            dtype="float32",
            hidden_dropout_prob=ours.dropout,
            attention_probs_dropout_prob=ours.attention_dropout,
        )
        optimizer = None
        if work.task == "image training":
            optimizer = make_optimizer(model.train(), work.config().optimizer)
        return cls.ready(mode, work, model if optimizer is not None else model.eval(), optimizer, lengths_vary=False)

    def batches(self) -> dict[str, list[dict[str, np.ndarray]]]:
        """Images as the peer takes them, channels first, and their labels."""
        with np.load(self.work.images_file) as stored:
            images, labels = np.ascontiguousarray(np.moveaxis(stored["images"], -1, 2)), stored["labels"]
        pairs = zip(images, labels.astype(np.int64), strict=True)
        return {"images": [{"pixel_values": pixels, "labels": numbers} for pixels, numbers in pairs]}

    def tensors(self, pairs: dict[str, np.ndarray]) -> dict[str, Any]:
        """The arguments of the model for a batch."""
        wanted = pairs if self.optimizer is not None else {"pixel_values": pairs["pixel_values"]}
        return {name: torch.from_numpy(array) for name, array in wanted.items()}

    def check(self) -> list[float]:
        """What must agree with ours on the first batch: the loss without dropout, or the logits."""
        batch = self.batches()["images"][0]
        if self.optimizer is not None:
            return [self.loss(batch)]
        with torch.inference_mode():
            return self.model(**self.tensors(batch)).logits.float().numpy().ravel().tolist()

    def count(self, pairs: dict[str, np.ndarray]) -> int:
        """Images."""
        return len(pairs["labels"])
