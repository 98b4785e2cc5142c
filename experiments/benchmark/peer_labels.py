"""The peer's side of fine-tuning and embedding, in torch on the CPU. Only the peer's processes import it.

Fine-tuning: `BertForSequenceClassification`, otherwise as pretraining in `peer`. Embedding: `BertModel` in inference
mode and the mean over the tokens of each text, as sentence-transformers has it.

Axes: N texts, D width.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

from experiments.benchmark.modes import Mode
from experiments.benchmark.pairs import MEGABATCH, Pair, group_by_length, load_pairs, pad_to_longest, useful_tokens
from experiments.benchmark.peer import Peer, make_optimizer, peer_config, take_weights
from experiments.benchmark.workplace import Workplace


@dataclasses.dataclass
class PeerLabels(Peer):
    """One mode of the peer, ready to measure."""

    @classmethod
    def open(cls, mode: Mode, work: Workplace) -> "PeerLabels":
        """Builds the model and, for fine-tuning, its optimizer."""
        config, weights = work.config(), work.weights()
        theirs = peer_config(config.model, num_labels=len(weights["classifier/dense/bias"]))
        model: Any = take_weights(transformers.BertForSequenceClassification(theirs), weights)
        optimizer = None
        if work.task == "finetuning":
            optimizer = make_optimizer(model, config.optimizer)
        else:
            model = model.bert.eval()
            model.pooler = None
        return cls.ready(mode, work, model, optimizer)

    def batches(self) -> dict[str, list[Any]]:
        """The peer's batches: as they come, and grouped by length; of texts to embed all are sorted."""
        batches = load_pairs(self.work.pairs_file)
        together = len(batches) if self.work.task == "embedding" else MEGABATCH
        return {"dynamic": batches, "grouped": group_by_length(batches, together)}

    def tensors(self, pairs: Any) -> dict[str, Any]:
        """The arguments of the model for a batch."""
        arrays = pad_to_longest(pairs, self.work.pad_id)
        labels = arrays.pop("next_sentence_label")
        del arrays["labels"]
        if self.work.task == "finetuning":
            arrays["labels"] = labels
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def check(self) -> list[float]:
        """What must agree with ours on the first batch: the loss without dropout, or the vectors."""
        if self.work.task == "finetuning":
            return super().check()
        return self.vectors(self.tensors(load_pairs(self.work.pairs_file)[0])).ravel().tolist()

    def vectors(self, inputs: dict[str, Any]) -> np.ndarray:
        """The mean states of some texts, [N, D]."""
        with torch.inference_mode():
            hidden = self.model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][:, :, None].float()
            return ((hidden * mask).sum(1) / mask.sum(1)).numpy()

    def run(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """One step, or the vectors of one batch; gives seconds and useful tokens."""
        if self.work.task == "finetuning":
            return super().run(pairs)
        start = time.perf_counter()
        self.vectors(self.tensors(pairs))
        return time.perf_counter() - start, useful_tokens(pairs)
