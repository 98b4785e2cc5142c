"""Translation: the arithmetic of Marian of `transformers`, padding that changes nothing, the way back to the bit."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.translation import Translator, initial_params, translation_loss
from bert_jax.translation_config import TranslationConfig
from bert_jax.translation_weights import read_hf, write_hf
from bert_jax.translator import BatchTranslator, bucket_length
from core_jax.beam_search import BeamSettings
from core_jax.errors import UserError
from core_jax.safetensors_files import FILE
from core_jax.sharding import parse_mesh, path_name

# No two sizes are equal, so that no axis can stand in for another.
CONFIG = TranslationConfig(
    width=24,
    depth=2,
    encoder_depth=3,
    heads=4,
    mlp_width=40,
    vocab_size=54,
    maximum_positions=64,
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)
LENGTHS = (9, 2, 5, 7)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def random_params(scale=0.12):
    shapes = jax.eval_shape(initial_params(Translator(CONFIG)), jax.random.key(0))
    random = np.random.default_rng(0)

    def draw(path, leaf):
        value = scale * random.standard_normal(leaf.shape)
        return jnp.asarray(value + 1 if path_name(path).endswith("scale") else value, jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def random_pairs(width=9):
    """Sources and targets of several lengths, in rows of at least nine places."""
    random, rows = np.random.default_rng(1), len(LENGTHS)
    batch = {name: np.zeros((rows, width), np.int32) for name in ("sources", "source_segments", "tokens", "segments")}
    batch |= {"labels": np.zeros((rows, width), np.int32)}
    for row, length in enumerate(LENGTHS):
        source, target = (random.integers(4, 54, size) for size in (length, LENGTHS[-1 - row]))
        source[-1] = target[-1] = CONFIG.end_id
        batch["sources"][row, : len(source)], batch["source_segments"][row, : len(source)] = source, 1
        batch["tokens"][row, : len(target)] = [CONFIG.start_id, *target[:-1]]
        batch["labels"][row, : len(target)], batch["segments"][row, : len(target)] = target, 1
    batch = jax.tree.map(jnp.asarray, batch)
    return batch | {"weights": {"next": batch["segments"].astype(jnp.float32)}}


@functools.cache
def compiled_loss(smoothing=0.0):
    loss = translation_loss(Translator(CONFIG), train=False, smoothing=smoothing)
    return jax.jit(lambda params, batch: loss(params, batch, jax.random.key(0))[0])


def test_padding_changes_nothing():
    params, loss = random_params(), compiled_loss()
    close(loss(params, random_pairs(width=13)), loss(params, random_pairs()))


def test_smoothing_spreads_a_share_of_each_label():
    params, batch = random_params(), random_pairs()
    inputs = [batch[name] for name in ("sources", "source_segments", "tokens", "segments")]
    logits = jax.jit(lambda params: Translator(CONFIG).apply({"params": params}, *inputs))(params)
    likely = np.asarray(jax.nn.log_softmax(logits))
    labels = 0.9 * np.eye(54)[np.asarray(batch["labels"])] + 0.1 / 54
    weights = np.asarray(batch["weights"]["next"])
    close(compiled_loss(0.1)(params, batch), -((labels * likely).sum(-1) * weights).sum() / weights.sum())


def test_nobody_sees_what_comes_and_all_see_the_source():
    params, batch, model = random_params(), random_pairs(), Translator(CONFIG)
    shift = jnp.zeros((4, 9, 24))

    def shifted(model, source, target):
        others = model.encode(batch["sources"], batch["source_segments"])
        others = others._replace(hidden=others.hidden + source)
        return model.decode(model.decoder(model.token(batch["tokens"]) + target, batch["segments"], others=others))

    def logit(source, target):  # of place 2 of row 1, whose source has 2 tokens and target 5
        logits: Any = model.apply({"params": params}, source, target, method=shifted)
        return logits[1, 2, 7]

    source, target = (np.abs(np.asarray(x)).sum(-1) for x in jax.jit(jax.grad(logit, (0, 1)))(shift, shift))
    assert (source[1] > 0).tolist() == [True] * 2 + [False] * 7
    assert (target[1] > 0).tolist() == [True] * 3 + [False] * 6
    assert not source[[0, 2, 3]].any()
    assert not target[[0, 2, 3]].any()


def test_there_and_back_is_the_identity(tmp_path):
    write_hf(tmp_path / "a", CONFIG, random_params())
    first = read_hf(tmp_path / "a")
    assert dataclasses.replace(first.config, dtype="float32") == CONFIG
    jax.tree.map(np.testing.assert_array_equal, first.params, random_params())
    write_hf(tmp_path / "b", first.config, first.params)
    for name in ("config.json", FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_wrong_with_a_folder_is_said_at_once(tmp_path):
    write_hf(tmp_path / "out", CONFIG, random_params())
    tensors = dict(safetensors.numpy.load_file(tmp_path / "out" / FILE))
    del tensors["model.decoder.layers.1.encoder_attn.k_proj.bias"]
    tensors |= {"model.strange": np.zeros(2), "lm_head.weight": np.zeros((54, 24), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "out" / FILE)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path / "out")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "model.decoder.layers.1.encoder_attn.k_proj.bias: missing",
        "model.strange: unknown",
        "lm_head.weight: differs from model.shared.weight, to which it must be tied",
    }


def peer_of(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.MarianMTModel.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.slow
def test_logits_and_loss_are_those_of_the_peer(tmp_path):
    torch = pytest.importorskip("torch")
    write_hf(tmp_path / "out", CONFIG, random_params())
    peer, batch = peer_of(tmp_path / "out"), random_pairs()
    given = {name: torch.tensor(np.asarray(batch[name]), dtype=torch.long) for name in batch if name != "weights"}
    labels = torch.where(given["segments"] > 0, given["labels"], -100)
    with torch.no_grad():
        found = peer(
            input_ids=given["sources"],
            attention_mask=given["source_segments"],
            decoder_input_ids=given["tokens"],
            labels=labels,
        )
    inputs = [batch[name] for name in ("sources", "source_segments", "tokens", "segments")]
    logits = jax.jit(lambda params: Translator(CONFIG).apply({"params": params}, *inputs))(random_params())
    real = np.asarray(batch["segments"]) > 0
    close(np.asarray(logits)[real], found.logits.numpy()[real])
    close(compiled_loss()(random_params(), batch), found.loss.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (4, 0.6), (3, 1.5)])
def test_translations_are_those_of_the_peer(tmp_path, beams, penalty):
    torch = pytest.importorskip("torch")
    params = random_params(0.3)  # whose translations differ and end
    write_hf(tmp_path / "out", CONFIG, params)
    batch, limit = random_pairs(), 20
    with torch.no_grad():
        expected = peer_of(tmp_path / "out").generate(
            input_ids=torch.tensor(np.asarray(batch["sources"]), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(batch["source_segments"]), dtype=torch.long),
            num_beams=beams,
            length_penalty=penalty,
            max_new_tokens=limit,
            do_sample=False,
            forced_eos_token_id=None,
            bad_words_ids=[[CONFIG.pad_id]],
        )
    search = BeamSettings(beams=beams, length_penalty=penalty)
    translator = BatchTranslator(Translator(CONFIG), params, search, parse_mesh("data:2"), rows=2)
    sources = [np.asarray(batch["sources"])[row, :length].tolist() for row, length in enumerate(LENGTHS)]
    found = translator.translate(sources, limit)
    theirs = [[token for token in row[1:] if token not in (CONFIG.pad_id, CONFIG.end_id)] for row in expected.tolist()]
    assert found == theirs
    assert len({tuple(row) for row in found}) > 1


def test_few_lengths_are_compiled():
    assert {bucket_length(length, 100) for length in range(1, 101)} == {16, 32, 64, 100}
