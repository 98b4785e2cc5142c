"""The peer library's BERT, with the same weights, has the same losses, logits and gradients: to 1e-5."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bert_jax.model import BertForPretraining
from bert_jax.tasks import INPUTS, pretraining_loss
from core_jax.sharding import by_path
from core_jax.transformer import stack_layers, unstack_layers
from tests.peer_reference import (
    CONFIG,
    GELUS,
    SEED,
    figures,
    make_reference,
    peer_results,
    random_batch,
    random_params,
    read_reference,
)
from tests.tiny_bert import change_layers

RELATIVE = 1e-5
# For what is 0 but for the rounding of terms that cancel, such as the gradient of the keys' biases. The terms are of
# size 1: the largest norm of a gradient is 2, the smallest of one that is not 0 is 0.01.
ABSOLUTE = 1e-6

# Each attention meets each remat, and each of both meets layers unrolled and scanned; together the GELUs have all.
VARIANTS = [
    ("reference", "none", False),
    ("xla", "none", True),
    ("reference", "dots", True),
    ("xla", "dots", False),
    ("reference", "full", False),
    ("xla", "full", True),
]
CASES = [
    (gelu, attention, remat, scanned != (gelu == "tanh")) for gelu in GELUS for attention, remat, scanned in VARIANTS
]


def our_results(config, params, batch):
    """As `peer_results`, from our model."""
    model = BertForPretraining(config)
    change = functools.partial(change_layers, change=stack_layers) if config.scan_layers else lambda params: params

    @jax.jit
    def compute(params, batch):
        out = jax.value_and_grad(pretraining_loss(model, train=True), has_aux=True)(params, batch, jax.random.key(0))
        return out, model.apply({"params": params}, *(batch[name] for name in INPUTS))

    ((loss, metrics), gradients), (mlm_logits, nsp_logits) = jax.device_get(compute(change(params), batch))
    if config.scan_layers:
        gradients = change_layers(gradients, unstack_layers)
    losses = {name: total / count for name, (total, count) in metrics.items() if name.endswith("loss")}
    logits = {"mlm_logits": mlm_logits, "nsp_logits": nsp_logits}
    return losses | logits | {"loss": loss, "gradients": by_path(gradients)}


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, RELATIVE, ABSOLUTE, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("gelu", "attention", "remat", "scan_layers"), CASES)
def test_the_committed_figures_of_the_peer(gelu, attention, remat, scan_layers):
    config = dataclasses.replace(CONFIG, gelu=gelu, attention=attention, remat=remat, scan_layers=scan_layers)
    results = our_results(config, random_params(CONFIG, SEED), random_batch(CONFIG, SEED))
    assert_close(figures(results), read_reference()[gelu])


def test_the_committed_figures_notice_any_wrong_gradient_and_the_wrong_gelu():
    right, expected = our_results(CONFIG, random_params(CONFIG, SEED), random_batch(CONFIG, SEED)), read_reference()
    wrongs = {
        "a thousandth too large": lambda leaf: 1.001 * leaf,
        "negated": lambda leaf: -leaf,
        "in another order": lambda leaf: np.roll(leaf, 1),
        "one element off by a hundredth": lambda leaf: np.where(np.abs(leaf) == np.abs(leaf).max(), 1.01 * leaf, leaf),
    }
    unnoticed = []
    for name, wrong in wrongs.items():
        found = figures(right | {"gradients": {path: wrong(leaf) for path, leaf in right["gradients"].items()}})
        for path, gradient in found["gradients"].items():
            if np.allclose(gradient, expected[CONFIG.gelu]["gradients"][path], RELATIVE, ABSOLUTE):
                unnoticed.append((name, path))
    # The gradient of the keys' biases is 0: a constant added to all logits of a query changes no weight.
    assert {path for _, path in unnoticed} == {path for path in right["gradients"] if path.endswith("key/bias")}
    with pytest.raises(AssertionError):
        assert_close(expected["erf"], expected["tanh"])


def test_the_committed_figures_are_what_the_script_makes():
    pytest.importorskip("transformers")
    assert_close(make_reference(), read_reference())


@pytest.mark.parametrize("gelu", GELUS)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_element_of_every_gradient_of_the_peer(gelu, scan_layers):
    pytest.importorskip("transformers")
    shape = {"width": 30, "depth": 3, "heads": 5, "mlp_width": 44, "vocab_size": 71, "maximum_positions": 23}
    config = dataclasses.replace(CONFIG, **shape, type_vocab_size=3, gelu=gelu, scan_layers=scan_layers)
    seed = GELUS.index(gelu) + 1
    params = random_params(dataclasses.replace(config, scan_layers=False), seed)
    batch = random_batch(config, seed, rows=6, predictions=5)
    assert_close(our_results(config, params, batch), peer_results(config, params, batch))
