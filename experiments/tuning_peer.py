"""The same fine-tuning with `transformers`, to compare:   python -m experiments.tuning_peer --init=hf:DIR --data=...

Takes the flags of `experiments.finetune`. Records, pieces, batches, initial parameters (those of the fresh head, too),
scores and the choice of the best epoch are those of our runs; model, dropout and optimizer are the peer's. It needs the
`parity` extra.
"""

import dataclasses
import json
import math
import os
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int

from bert_jax import finetuning
from bert_jax.answers import Answers, answers_by_example, score_answers
from bert_jax.finetuning_config import BertFinetuning
from bert_jax.labelled_rows import IGNORED, LabelledTexts, batches_by_length, draw_examples
from bert_jax.labelled_texts import LabelledExamples
from bert_jax.labelling import initial_label_params
from bert_jax.missing_answers import some_are_missing
from bert_jax.tuning_steps import all_steps, epoch_steps, with_warmup
from bert_jax.weights import LABEL_ARCHITECTURES, Imported, output_names, read_hf, write_hf
from core_jax.config import require
from core_jax.data import Order
from core_jax.sharding import parse_mesh
from core_jax.train import create_state
from core_jax.workdir import write_atomically
from experiments.console import format_value, parse_flags, run_command, say, typed_command
from experiments.finetune import Finetune, defaults
from experiments.verification import import_peer

NO_LABEL = -100  # of the peer's cross-entropy


def main(arguments: list[str]) -> int:
    """Trains, scores and writes summary.json; returns the exit code."""
    flags = parse_flags(Finetune, arguments, "The same fine-tuning with transformers.", defaults(arguments))
    import_peer()
    config = flags.plain()
    require(config.init.startswith("hf:"), f"--init={config.init}: the peer starts from hf:DIR")
    require(bool(config.tuning.workdir), "--workdir=: expected a folder for summary.json")
    finetuning.check_labels(config.labels)
    finetuning.check_sets(config.labels)
    summary = pathlib.Path(config.tuning.workdir, "summary.json")
    if summary.exists():
        say(f"{summary} is there already")
        return 0
    summary.parent.mkdir(parents=True, exist_ok=True)
    result = train(config) | {"command": typed_command()}
    write_atomically(summary, json.dumps(result, indent=2) + "\n")
    return 0


def train(config: BertFinetuning) -> dict[str, Any]:
    """Trains the peer; gives the scores of its best epoch on all sets of examples."""
    torch, _ = import_peer()
    start, labels = read_hf(config.init.partition(":")[2]), config.labels
    records, validation, others = finetuning.read_sets(labels)
    classes = finetuning.classes_of(labels, records, validation)
    model = initial_model(config, start, classes)
    torch.manual_seed(config.tuning.seed)
    taught = finetuning.encode(labels, records, start.tokenizer, classes, weigh=True)
    data, may_be_empty = taught.texts, some_are_missing(taught, labels.label_column)
    sets = {"validation": validation} | others
    sets = {name: finetuning.encode(labels, rows, start.tokenizer, classes) for name, rows in sets.items()}
    size, columns = config.tuning.global_batch_size, finetuning.columns_of(labels)
    in_epoch, steps = epoch_steps(config.tuning, len(data)), all_steps(config.tuning, len(data))
    metric = finetuning.metric_of(labels)
    optimizer, schedule = make_optimizer(model, config, steps)
    order, losses, curve, best, began = Order(len(data), config.tuning.seed), [], [], None, time.perf_counter()
    for step in range(steps):
        loss = model.train()(**inputs_of(data, draw_examples(order, step, size))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % in_epoch and step + 1 < steps:
            continue
        found = {}
        for name, examples in sets.items():
            answers = ask(model, examples, size * 2, labels.text_column)
            found[name] = score_answers(answers, examples, columns, classes, may_be_empty=may_be_empty)
        curve.append({"step": step + 1, "training_loss": float(np.mean(losses)), **found["validation"]})
        losses = []
        texts = (f"{name} {format_value(name, value)}" for name, value in found["validation"].items())
        say("  ".join([f"step {step + 1}", *texts]))
        if best is None or found["validation"][metric] > best["validation"][metric]:
            best = found
    assert best is not None
    scores = best.pop("validation")
    return scores | {"others": best, "epochs": curve, "steps": steps, "seconds": time.perf_counter() - began}


def initial_model(config: BertFinetuning, start: Imported, classes: list[str]) -> Any:
    """The peer with the parameters that our run of this seed starts from: how well a head is drawn is no difference."""
    _, transformers = import_peer()
    dropout = {"dropout": config.dropout, "attention_dropout": config.attention_dropout}
    bert = dataclasses.replace(start.config, **dropout)
    ours = finetuning.label_model(bert, config.labels, classes)
    mesh = parse_mesh("data:1", jax.devices()[:1])
    state = create_state(initial_label_params(ours), optax.identity(), mesh, config.tuning.seed)
    params, _ = finetuning.grafted(state.params, start.params, mesh)
    architecture, names = LABEL_ARCHITECTURES[ours.head], output_names(ours.head, classes)
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "start")
        write_hf(place, bert, start.tokenizer, params, architecture, names)
        return getattr(transformers, architecture).from_pretrained(place, dtype="float32")


def make_optimizer(model: Any, config: BertFinetuning, steps: int) -> tuple[Any, Any]:
    """AdamW and its schedule, warm-up and linear to 0, as a Trainer has them."""
    torch, transformers = import_peer()
    ours = with_warmup(config, steps)
    groups = [
        {"params": [leaf for leaf in model.parameters() if (leaf.ndim > 1) == decayed], "weight_decay": rate}
        for decayed, rate in ((True, ours.weight_decay), (False, 0.0))
    ]
    adam = torch.optim.AdamW(groups, lr=ours.learning_rate, betas=(ours.beta1, ours.beta2), eps=ours.epsilon)
    return adam, transformers.get_linear_schedule_with_warmup(adam, ours.warmup_steps, steps)


def inputs_of(data: LabelledTexts, drawn: Int[np.ndarray, " G"]) -> dict[str, Any]:
    """A batch as the peer has it: a text in a row, padded to the longest."""
    torch, _ = import_peer()
    texts = data.members(drawn)
    length = max(len(data.tokens[text]) for text in texts)
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    rows = {name: np.zeros((len(texts), length), np.int64) for name in names}
    rows["input_ids"][:], rows["labels"][:] = data.pad_id, NO_LABEL
    for row, text in enumerate(texts):
        ids = data.tokens[text]
        rows["input_ids"][row, : len(ids)], rows["attention_mask"][row, : len(ids)] = ids, 1
        rows["token_type_ids"][row, data.first[text] : len(ids)] = 1
        if data.head == "token":
            own = np.array(data.labels[text])
            rows["labels"][row, : len(ids)] = np.where(own == IGNORED, NO_LABEL, own)
    if data.head == "choice":
        rows = {name: value.reshape(len(drawn), -1, length) for name, value in rows.items()}
    if data.head != "token":
        kind = np.float32 if data.head == "regression" else np.int64
        given = np.array([data.labels[text] for text in texts[:: data.texts_per_example]], kind)
        del rows["labels"]
        spans = {"start_positions": given[..., 0], "end_positions": given[..., 1]} if data.head == "span" else {}
        rows |= spans or {"labels": given}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in rows.items()}


def ask(model: Any, examples: LabelledExamples, batch_size: int, context_column: str) -> Answers:
    """The peer's answers to all examples, and its mean loss over the batches' examples."""
    torch, _ = import_peer()
    data, found, losses = examples.texts, {}, []
    for drawn in batches_by_length(data, batch_size):
        with torch.inference_mode():
            out = model.eval()(**inputs_of(data, drawn))
        losses.append((out.loss.item(), len(drawn)))
        members = data.members(drawn)
        logits = np.stack([out.start_logits, out.end_logits], 1) if data.head == "span" else out.logits.numpy()
        logits = logits.reshape(-1, 1) if data.head == "choice" else logits
        for row, text in enumerate(members.tolist()):
            length = len(data.tokens[text])
            parts = {"token": logits[row][:length], "span": logits[row][..., :length]}
            found[text] = parts.get(data.head, logits[row])
    loss = sum(value * count for value, count in losses) / sum(count for _, count in losses)
    values = answers_by_example(examples, [found[text] for text in range(len(data.tokens))], context_column)
    return Answers(loss if math.isfinite(loss) else math.nan, values)


if __name__ == "__main__":
    run_command(main)
