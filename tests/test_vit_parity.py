"""The ViTs of `transformers`, imported, have the same states, logits, losses and gradients: to 1e-5; and go back."""

import json

import jax
import numpy as np
import pytest

from core_jax.safetensors_files import FILE
from tests.test_weights import assert_same
from tests.vit_peers import PEERS, in_our_names, our_results, peer_results, random_images, random_peer
from vit_jax.weights import read_hf, write_hf

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # as for BERT


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, RELATIVE, ABSOLUTE, err_msg=jax.tree_util.keystr(path))


def check_parity(folder, architecture, scan, **changes):
    """Imports a random peer and compares all that both compute."""
    peer = random_peer(architecture, **changes)
    peer.save_pretrained(folder)
    ours = read_hf(folder)
    images, labels = random_images(ours.config), np.array([3, 0, 6])
    theirs = peer_results(peer, images, labels)
    theirs["gradients"] = in_our_names(theirs["gradients"], ours, peer.config.model_type)
    assert_close(our_results(ours, images, labels, scan=scan), theirs)


def test_a_classifier_of_the_peer(tmp_path):
    pytest.importorskip("transformers")
    check_parity(tmp_path / "peer", "ViTForImageClassification", False)


@pytest.mark.slow
@pytest.mark.parametrize(("gelu", "scan"), [("gelu", False), ("gelu_pytorch_tanh", True)])
@pytest.mark.parametrize("architecture", PEERS)
def test_every_architecture_of_the_peer(tmp_path, architecture, gelu, scan):
    pytest.importorskip("transformers")
    check_parity(tmp_path / "peer", architecture, scan, hidden_act=gelu)


@pytest.mark.parametrize("architecture", PEERS)
def test_the_peer_opens_what_is_written_unchanged(tmp_path, architecture):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peer = random_peer(architecture)
    peer.save_pretrained(tmp_path / "theirs")
    first = read_hf(tmp_path / "theirs")
    write_hf(tmp_path / "ours", first)
    kind = getattr(transformers, architecture)
    again, loading = kind.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not any(loading.values())
    pixels = torch.tensor(random_images(first.config).transpose(0, 3, 1, 2))
    with torch.inference_mode():
        for before, after in zip(peer(pixels).values(), again.eval()(pixels).values(), strict=True):
            assert torch.equal(before, after)
    assert kind.__name__ in json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"]
    second = read_hf(tmp_path / "ours")
    assert_same(second.params, first.params)
    assert (second.config, second.labels) == (first.config, first.labels)
    write_hf(tmp_path / "again", second)
    for name in ("config.json", FILE, "preprocessor_config.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
