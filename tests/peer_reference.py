"""What the peer, `transformers.BertForPreTraining`, computes for small random models.

`python -m tests.peer_reference` writes tests/peer_reference.json. That and `peer_results` need the `parity` extra, the
rest does not.
"""

import dataclasses
import json
import pathlib
import re

import jax
import numpy as np

from bert_jax.config import BertConfig
from bert_jax.model import BertForPretraining
from bert_jax.peer_names import peer_name
from bert_jax.tasks import initial_params
from core_jax.peer_names import PEER_GELUS, from_peer, to_peer
from core_jax.sharding import by_path, path_name

FILE = pathlib.Path(__file__).with_suffix(".json")
SCALE = 0.12  # of random weights: twice as large, and float32 no longer keeps five digits, neither here nor there
SEED = 20_181_011
# No two sizes are equal, so that no axis can stand in for another.
CONFIG = BertConfig(
    width=24,
    depth=2,
    heads=3,
    mlp_width=40,
    vocab_size=53,
    maximum_positions=17,
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)
GELUS = ("erf", "tanh")


def random_params(config: BertConfig, seed: int) -> dict:
    """Parameters of the unrolled model. None is 0 or 1, so that no term of the model can go missing unnoticed."""
    # Not a Generator: NumPy may change what those draw, while RandomState is frozen for good.
    random = np.random.RandomState(seed)
    shapes = jax.eval_shape(initial_params(BertForPretraining(config)), jax.random.key(0))

    def draw(path, leaf):
        value = SCALE * random.standard_normal(leaf.shape)
        return (value + 1 if path_name(path).endswith("scale") else value).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def random_batch(config: BertConfig, seed: int, rows: int = 5, predictions: int = 4) -> dict:
    """Pairs of sentences, all but one padded, with between 1 and `predictions` tokens to predict."""
    random = np.random.RandomState(seed)
    length = config.maximum_positions - 4  # some of the table is not used
    lengths = np.array([length, *random.randint(length // 2, length, rows - 1)])[:, None]
    seconds = random.randint(2, lengths)
    wanted = random.randint(1, predictions + 1, (rows, 1))
    integers = {
        # Padding has contents too; nobody may see them. Token 0 is left out: as its `padding_idx` the peer gives that
        # row of the table no gradient of its lookup.
        "tokens": random.randint(1, config.vocab_size, (rows, length)),
        "segments": np.arange(length) < lengths,
        "types": np.arange(length) >= seconds,
        "mlm_positions": np.stack([random.permutation(count)[:predictions] for count in lengths[:, 0]]),
        "mlm_labels": random.randint(0, config.vocab_size, (rows, predictions)),
        "nsp_labels": random.randint(0, 2, rows),
    }
    weights = {"mlm": np.arange(predictions) < wanted, "nsp": np.ones(rows)}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    return {name: value.astype(np.int32) for name, value in integers.items()} | {"weights": weights}


def peer_model(config: BertConfig, params: dict):
    """The peer with our parameters."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            hidden_act=PEER_GELUS[config.gelu],
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.attention_dropout,
            max_position_embeddings=config.maximum_positions,
            type_vocab_size=config.type_vocab_size,
            layer_norm_eps=config.norm_epsilon,
            attn_implementation="eager",  # pyright: ignore[reportCallIssue]
        )
    )
    theirs = dict(model.named_parameters())
    ours = by_path(params)
    assert {peer_name(path) for path in ours} == theirs.keys()
    with torch.no_grad():
        for path, value in ours.items():
            parameter = theirs[peer_name(path)]
            parameter.copy_(torch.tensor(to_peer(path, value, tuple(parameter.shape))))
    return model


def peer_results(config: BertConfig, params: dict, batch: dict) -> dict:
    """The peer's losses, logits and gradients; the gradients under our paths and in our shapes."""
    import torch  # pyright: ignore[reportMissingImports]

    model = peer_model(config, params)
    rows = np.arange(len(batch["tokens"]))[:, None]
    labels = np.full_like(batch["tokens"], -100)
    wanted = batch["weights"]["mlm"] > 0
    labels[np.broadcast_to(rows, wanted.shape)[wanted], batch["mlm_positions"][wanted]] = batch["mlm_labels"][wanted]
    inputs = {
        "input_ids": batch["tokens"],
        "attention_mask": batch["segments"],
        "token_type_ids": batch["types"],
        "labels": labels,
        "next_sentence_label": batch["nsp_labels"],
    }
    out = model(**{name: torch.tensor(value.astype(np.int64)) for name, value in inputs.items()})
    out.loss.backward()
    mlm_logits, nsp_logits = out.prediction_logits, out.seq_relationship_logits
    entropy = torch.nn.functional.cross_entropy
    theirs = dict(model.named_parameters())
    return {
        "loss": out.loss.item(),
        "mlm_loss": entropy(mlm_logits.flatten(0, 1), torch.tensor(labels.reshape(-1).astype(np.int64))).item(),
        "nsp_loss": entropy(nsp_logits, torch.tensor(batch["nsp_labels"].astype(np.int64))).item(),
        "mlm_logits": mlm_logits.detach().numpy()[rows, batch["mlm_positions"]],
        "nsp_logits": nsp_logits.detach().numpy(),
        "gradients": {
            path: from_peer(path, theirs[peer_name(path)].grad.numpy(), value.shape)  # pyright: ignore[reportOptionalMemberAccess]
            for path, value in by_path(params).items()
        },
    }


def figures(results: dict) -> dict:
    """Results of either side in few numbers: of each gradient the norm and the products with two random directions."""
    random = np.random.RandomState(SEED)
    gradients = {}
    for path, value in sorted(results["gradients"].items()):
        flat = np.asarray(value, np.float64).ravel()
        directions = random.standard_normal((2, flat.size))
        # Of length 1, so that rounding moves a product no more than it moves an element of the gradient.
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gradients[path] = np.array([np.linalg.norm(flat), *(directions @ flat)])
    logits = {
        "mlm_logits": results["mlm_logits"][::2, 0],  # one position of every other row, the whole vocabulary
        "nsp_logits": results["nsp_logits"],
    }
    return {name: results[name] for name in ("loss", "mlm_loss", "nsp_loss")} | logits | {"gradients": gradients}


def make_reference() -> dict:
    """The contents of the file: the figures of the peer for both GELUs."""
    params, batch = random_params(CONFIG, SEED), random_batch(CONFIG, SEED)
    configs = {gelu: dataclasses.replace(CONFIG, gelu=gelu) for gelu in GELUS}
    return {gelu: figures(peer_results(config, params, batch)) for gelu, config in configs.items()}


def read_reference() -> dict:
    """The committed figures."""
    return jax.tree.map(np.asarray, json.loads(FILE.read_text()), is_leaf=lambda node: isinstance(node, list))


def main() -> None:
    """Writes the file."""

    def digits(value):  # nine hold a float32 exactly
        return [digits(part) for part in value] if np.ndim(value) else float(f"{value:.9g}")

    text = json.dumps(jax.tree.map(digits, make_reference()), indent=0)
    FILE.write_text(re.sub(r"\n(?=[-\d\]])", "", text) + "\n")  # a line for each list of numbers


if __name__ == "__main__":
    main()
