"""T5 as published and of version 1.1: the arithmetic of `transformers`, who stands how far from whom, the way back."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.gpt import decode_step, prefill
from bert_jax.t5_weights import read_hf, to_params, write_hf
from bert_jax.translation import Translator, initial_params, translation_loss
from bert_jax.translation_config import PRESETS
from bert_jax.translator import BatchTranslator
from core_jax.beam_search import BeamSettings
from core_jax.errors import UserError
from core_jax.multihead_attention import Others
from core_jax.relative_positions import distance_buckets
from core_jax.safetensors_files import FILE
from core_jax.sharding import by_path, parse_mesh
from core_jax.transformer import stack_layers
from tests.same_training import assert_same_on_meshes
from tests.tiny_t5 import LATER, LENGTHS, PUBLISHED, random_pairs, random_params

CONFIGS = {"published": PUBLISHED, "1.1": dataclasses.replace(PUBLISHED, **LATER)}
INPUTS = ("sources", "source_segments", "tokens", "segments")
both = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def apply(config, params, *inputs, **options):
    found: Any = jax.jit(lambda params: Translator(config).apply({"params": params}, *inputs, **options))(params)
    return found


def test_the_small_preset_has_the_parameters_of_the_published_model():
    config = dataclasses.replace(PRESETS["t5-small"].model, scan_layers=True)
    shapes = jax.eval_shape(initial_params(Translator(config)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 76_961_152  # of google/t5-v1_1-small
    paths = by_path(shapes)
    assert not [path for path in paths if path.endswith("bias")]
    assert paths["encoder/relative/embedding"].shape == paths["decoder/relative/embedding"].shape == (32, 6)


def test_short_distances_have_buckets_of_their_own_and_long_ones_share():
    distances = np.array([-200, -128, -16, -8, -7, -1, 0, 1, 7, 8, 16, 128])
    found = distance_buckets(distances, buckets=32, longest=128, causal=False)
    assert found.tolist() == [15, 15, 10, 8, 7, 1, 0, 17, 23, 24, 26, 31]
    found = distance_buckets(distances, buckets=32, longest=128, causal=True)
    assert found.tolist() == [31, 31, 16, 8, 7, 1, 0, 0, 0, 0, 0, 0]


def test_texts_packed_in_a_row_are_read_as_alone_on_whatever_side_they_are_padded():
    config = dataclasses.replace(PUBLISHED, depth=1, encoder_depth=1)
    params, tokens = random_params(config), np.random.default_rng(2).integers(3, 56, (1, 14))
    places = {1: slice(1, 6), 2: slice(6, 13)}
    segments = np.zeros((1, 14), np.int32)
    for number, place in places.items():
        segments[:, place] = number

    def states(model, sources, segments):
        others = model.encode(sources, segments)
        return others.hidden, model.read(sources, segments, others=others)

    run = jax.jit(
        lambda params, *inputs: Translator(config).apply({"params": params}, *map(jnp.asarray, inputs), method=states)
    )
    packed = run(params, tokens, segments)
    for number, place in places.items():
        alone = run(params, tokens, np.where(segments == number, number, 0))
        moved = run(params, np.roll(tokens, -place.start), np.roll(segments == number, -place.start) + 0)
        for ours, single, first in zip(packed, alone, moved, strict=True):
            close(ours[:, place], single[:, place])
            close(ours[:, place], first[:, : place.stop - place.start])


@both
def test_there_and_back_is_the_identity(tmp_path, config):
    write_hf(tmp_path / "a", config, random_params(config))
    first = read_hf(tmp_path / "a")
    assert dataclasses.replace(first.config, dtype="float32") == config
    jax.tree.map(np.testing.assert_array_equal, first.params, random_params(config))
    write_hf(tmp_path / "b", first.config, first.params)
    for name in ("config.json", FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_wrong_with_a_folder_is_said_at_once(tmp_path):
    write_hf(tmp_path / "out", PUBLISHED, random_params(PUBLISHED))
    tensors = dict(safetensors.numpy.load_file(tmp_path / "out" / FILE))
    del tensors["decoder.block.1.layer.1.EncDecAttention.k.weight"]
    tensors |= {"strange": np.zeros(2), "lm_head.weight": np.zeros((56, 22), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "out" / FILE)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path / "out")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "decoder.block.1.layer.1.EncDecAttention.k.weight: missing",
        "strange: unknown",
        "lm_head.weight: differs from shared.weight, to which it must be tied",
    }
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    del fields["d_kv"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(fields | {"feed_forward_proj": "gated-tanh"}))
    with pytest.raises(UserError, match=r"d_kv is missing\n.*feed_forward_proj is 'gated-tanh', expected one of relu"):
        read_hf(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": "splash"}, "cannot add the bias of --positions=relative: use --attention=auto"),
        ({"relative_buckets": 6}, "--relative_buckets=6: expected a multiple of 4"),
        ({"relative_distance": 4}, "--relative_distance=4: expected more than half of --relative_buckets=8"),
    ],
)
def test_what_relative_positions_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(PUBLISHED, **changes)


def test_a_folder_for_what_is_no_t5_is_refused(tmp_path):
    config = dataclasses.replace(PUBLISHED, norm="post", scale_output=False)
    with pytest.raises(UserError, match=r"--norm=post: a T5 has pre alone\n.*a T5 has both or neither"):
        write_hf(tmp_path / "out", config, {})


@pytest.mark.slow
@pytest.mark.parametrize(("side", "scan_layers"), [("left", False), ("right", True)])
def test_a_cache_stands_for_the_tokens_before(side, scan_layers):
    config = dataclasses.replace(CONFIGS["1.1"], scan_layers=scan_layers)
    batch, prompts, longest = random_pairs(config), np.array([3, 1, 2, 3]), 3
    params = random_params(CONFIGS["1.1"])
    if scan_layers:
        params = params | {name: stack_layers(params[name]) for name in ("encoder", "decoder")}
    model, tokens = Translator(config), jnp.asarray(np.random.default_rng(3).integers(3, 56, (4, 20)), jnp.int32)
    segments = batch["source_segments"]
    expected = np.asarray(apply(config, params, batch["sources"], segments, tokens, jnp.ones_like(tokens)))
    others: Any = apply(config, params, batch["sources"], segments, method="encode")
    given, valid = np.zeros((4, longest), np.int32), np.zeros((4, longest), bool)
    for row, length in enumerate(prompts):
        place = slice(longest - length, longest) if side == "left" else slice(0, length)
        given[row, place], valid[row, place] = np.asarray(tokens)[row, :length], True
    logits, cache = jax.jit(functools.partial(prefill, model), static_argnames="capacity")(
        params, jnp.asarray(given), jnp.asarray(valid), capacity=20, others=Others(*others)
    )
    step = jax.jit(functools.partial(decode_step, model))
    for number in range(20 - longest):
        close(logits, expected[np.arange(4), prompts - 1 + number])
        logits, cache = step(params, tokens[np.arange(4), prompts + number], cache)
    close(logits, expected[np.arange(4), prompts - 1 + 20 - longest])


def peer_of(folder, config, params):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    write_hf(folder, config, params)
    peer = transformers.T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    assert (peer.lm_head.weight is peer.shared.weight) == config.tied_output
    return peer, torch


def given_to(torch, batch):
    return {name: torch.tensor(np.asarray(batch[name]), dtype=torch.long) for name in (*INPUTS, "labels")}


@pytest.mark.slow
@both
def test_states_logits_loss_and_gradients_are_those_of_the_peer(tmp_path, config):
    params, batch = random_params(config), random_pairs(config)
    peer, torch = peer_of(tmp_path / "out", config, params)
    given = given_to(torch, batch)
    found = peer(
        input_ids=given["sources"],
        attention_mask=given["source_segments"],
        decoder_input_ids=given["tokens"],
        labels=torch.where(given["segments"] > 0, given["labels"], -100),
    )
    found.loss.backward()
    real, read = (np.asarray(batch[name]) > 0 for name in ("segments", "source_segments"))
    others: Any = apply(config, params, batch["sources"], batch["source_segments"], method="encode")
    close(np.asarray(others.hidden)[read], found.encoder_last_hidden_state.detach().numpy()[read])
    logits = apply(config, params, *(batch[name] for name in INPUTS))
    close(np.asarray(logits)[real], found.logits.detach().numpy()[real])
    loss = translation_loss(Translator(config), train=False)
    ours, gradients = jax.jit(jax.value_and_grad(lambda params: loss(params, batch, jax.random.key(0))[0]))(params)
    close(ours, found.loss.item())
    tensors = {name: parameter.grad.numpy() for name, parameter in peer.named_parameters()}
    jax.tree.map(close, gradients, to_params(tensors, config, "the peer"))
    assert all(np.abs(gradients[side]["relative"]["embedding"]).max() > 1e-4 for side in ("encoder", "decoder"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beams", "penalty"), [("published", 1, 1.0), ("1.1", 4, 0.6), ("published", 3, 1.5)])
def test_translations_are_those_of_the_peer(tmp_path, name, beams, penalty):
    config, limit = CONFIGS[name], 20
    params, batch = random_params(config, 0.3), random_pairs(config)
    peer, torch = peer_of(tmp_path / "out", config, params)
    with torch.no_grad():
        expected = peer.generate(
            input_ids=given_to(torch, batch)["sources"],
            attention_mask=given_to(torch, batch)["source_segments"],
            num_beams=beams,
            length_penalty=penalty,
            max_new_tokens=limit,
            do_sample=False,
            bad_words_ids=[[config.pad_id]],
        )
    search = BeamSettings(beams=beams, length_penalty=penalty)
    translator = BatchTranslator(Translator(config), params, search, parse_mesh("data:2"), rows=2)
    sources = [np.asarray(batch["sources"])[row, :length].tolist() for row, length in enumerate(LENGTHS)]
    theirs = [[token for token in row[1:] if token not in (config.pad_id, config.end_id)] for row in expected.tolist()]
    assert translator.translate(sources, limit) == theirs
    assert len({tuple(row) for row in theirs}) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "scan_layers"), [("data:2,tensor:2", False), ("fsdp:2,tensor:4", True)])
def test_meshes_agree_also_where_weights_are_dropped(mesh, scan_layers):
    drops = {"dropout": 0.2, "attention_dropout": 0.2, "mlp_dropout": 0.2}
    config = dataclasses.replace(CONFIGS["1.1"], scan_layers=scan_layers, **drops)
    batch, params = random_pairs(config), random_params(config)
    loss = translation_loss(Translator(config), train=True)
    assert_same_on_meshes(loss, params, jax.device_get(batch), (mesh,), rounding=1e-5)
