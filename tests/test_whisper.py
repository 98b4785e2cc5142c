"""Whisper: the arithmetic of the peer, its names, and CTranslate2's; time stamps by the rules."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.gpt import Gpt
from bert_jax.transcript_rules import TranscriptRules
from core_jax.errors import UserError
from core_jax.losses import cross_entropy
from core_jax.sharding import by_path
from experiments.speech.weights import hears, names, read_ct2, read_hf, write_hf
from tests.tiny_whisper import DECODER, ENCODER, VOCABULARY, ctranslate2_bytes, tokens, whisper, write_ctranslate2
from vit_jax.audio_encoder import AudioEncoder


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


SPECTROGRAM = draw(1, 3, ENCODER.frames, ENCODER.mel_bands)
WRITTEN = jnp.asarray(np.random.default_rng(2).integers(0, VOCABULARY, (3, 9), np.int32))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_there_and_back_is_the_identity(tmp_path):
    write_hf(tmp_path / "a", whisper())
    found = read_hf(tmp_path / "a")
    assert found.encoder == dataclasses.replace(ENCODER, dtype="auto")
    assert found.decoder == dataclasses.replace(DECODER, dtype="auto")
    assert_same(found.params, jax.tree.map(np.asarray, whisper().params))
    assert found.settings == whisper().settings
    write_hf(tmp_path / "b", found)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert hears(f"hf:{tmp_path}/a")
    assert not hears(f"hf:{tmp_path}")


def ctranslate2_arrays() -> dict[str, np.ndarray]:
    """The model as CTranslate2 keeps it: attention joined, half precision."""
    peer, arrays = names.to_peer({path: np.asarray(leaf) for path, leaf in by_path(whisper().params).items()}), {}
    for stack, layers in (("encoder", 2), ("decoder", 2)):
        arrays[f"{stack}/num_heads"] = np.asarray(4, np.int16)
        arrays[f"{stack}/position_encodings/encodings"] = peer[f"model.{stack}.embed_positions.weight"]
        kinds = [("self_attn", "self_attention", ("qkv", "o")), ("encoder_attn", "attention", ("q", "kv", "o"))]
        for layer, (theirs, ours, joined) in itertools.product(range(layers), kinds[: 1 + (stack == "decoder")]):
            place, prefix = f"{stack}/layer_{layer}/{ours}", f"model.{stack}.layers.{layer}.{theirs}"
            for number, letters in enumerate(joined):
                parts = ["out_proj" if letter == "o" else f"{letter}_proj" for letter in letters]
                weights = [peer[f"{prefix}.{part}.weight"] for part in parts]
                zero = np.zeros(ENCODER.width, np.float32)
                arrays[f"{place}/linear_{number}/weight"] = np.concatenate(weights)
                arrays[f"{place}/linear_{number}/bias"] = np.concatenate(
                    [peer.get(f"{prefix}.{part}.bias", zero) for part in parts]
                )
        for path, value in peer.items():
            if not path.startswith(f"model.{stack}.") or "_proj" in path or "embed_positions" in path:
                continue
            name = path.removeprefix("model.").replace(".layers.", ".layer_").replace(".", "/")
            for theirs, ours in {
                "self_attn_layer_norm/weight": "self_attention/layer_norm/gamma",
                "self_attn_layer_norm/bias": "self_attention/layer_norm/beta",
                "encoder_attn_layer_norm/weight": "attention/layer_norm/gamma",
                "encoder_attn_layer_norm/bias": "attention/layer_norm/beta",
                "final_layer_norm/weight": "ffn/layer_norm/gamma",
                "final_layer_norm/bias": "ffn/layer_norm/beta",
                "fc1": "ffn/linear_0",
                "fc2": "ffn/linear_1",
                "embed_tokens": "embeddings",
            }.items():
                name = name.replace(theirs, ours)
            if name.startswith(f"{stack}/layer_norm/"):
                name = name.replace("weight", "gamma").replace("bias", "beta")
            arrays[name] = value
    return arrays


def in_half(value):
    return np.asarray(value).astype(np.float16)


def test_files_of_ctranslate2(tmp_path):
    arrays = ctranslate2_arrays()
    arrays |= {name: in_half(value) for name, value in arrays.items() if value.ndim and "encodings" not in name}
    content = ctranslate2_bytes(arrays, {"decoder/projection/weight": "decoder/embeddings/weight"})
    write_ctranslate2(tmp_path, content)
    found, given = read_ct2(tmp_path), by_path(whisper().params)
    assert found.settings == whisper().settings
    for path, leaf in by_path(found.params).items():
        exact = path.endswith(("positions", "position/embedding"))
        expected = given[path] if exact else in_half(given[path]).astype(np.float32)
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
    for damaged in (content[:-100], b"\7\0\0\0" + content[4:], b""):
        write_ctranslate2(tmp_path, damaged)
        with pytest.raises(UserError, match=r"is damaged or no model\.bin"):
            read_ct2(tmp_path)


def test_whole_numbers_are_divided_by_their_scales(tmp_path):
    arrays, name = ctranslate2_arrays(), "decoder/layer_0/ffn/linear_0/weight"
    exact = arrays[name]
    scales = 127 / np.abs(exact).max(axis=1)
    whole = np.round(exact * scales[:, None]).astype(np.int8)
    arrays |= {name: whole, f"{name}_scale": scales.astype(np.float32)}
    write_ctranslate2(tmp_path, ctranslate2_bytes(arrays, {}))
    found = read_ct2(tmp_path).params["decoder"]["decoder"]["block_0"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(found, exact.T, atol=0.51 / scales.min())


@pytest.mark.slow
def test_a_random_model_of_the_peer_agrees(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write_hf(tmp_path, whisper())
    peer = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = torch.tensor(np.asarray(SPECTROGRAM).transpose(0, 2, 1)), torch.tensor(np.asarray(WRITTEN)).long()
    heard = peer.model.encoder(inputs[0]).last_hidden_state
    logits = peer(inputs[0], decoder_input_ids=inputs[1][:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs[1][:, 1:].flatten())
    loss.backward()
    model = whisper().model

    @jax.jit
    def compute(params):
        logits = model.apply({"params": params}, SPECTROGRAM, WRITTEN[:, :-1])
        total, count = cross_entropy(logits, WRITTEN[:, 1:], jnp.ones((3, 8)))  # pyright: ignore[reportArgumentType]
        return total / count, logits

    params = whisper().params
    (found, ours), gradient = jax.value_and_grad(compute, has_aux=True)(params)
    encoded = AudioEncoder(ENCODER).apply({"params": params["encoder"]}, SPECTROGRAM)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())  # noqa: E731
    close(encoded, heard.detach().numpy())
    close(ours, logits.detach().numpy())
    close(found, loss.item())
    expected = {name: tensor.grad.numpy() for name, tensor in peer.named_parameters() if tensor.grad is not None}
    largest = max(np.abs(value).max() for value in expected.values())
    compared = names.to_peer({path: np.asarray(leaf) for path, leaf in by_path(gradient).items()})
    sinusoids = {"model.encoder.embed_positions.weight"}  # which are not learnt here
    assert compared.keys() == expected.keys() | sinusoids
    for name in compared.keys() - sinusoids:
        np.testing.assert_allclose(compared[name], expected[name], rtol=1e-4, atol=1e-5 * largest, err_msg=name)


FIRST = tokens().first_stamp
RULES = TranscriptRules(tokens(), VOCABULARY, [1], [2], stamps=True)


def allowed_after(written, logits):
    """Which tokens the rules let follow what was written."""
    rules, found = RULES, RULES.first(logits[None])
    state = rules.started(None, 1)
    step = rules.steps(lambda params, tokens, cache: (logits[None], cache))
    for token in written:
        found, state = step(None, jnp.array([token]), state)
    return set(np.flatnonzero(np.isfinite(np.asarray(found[0]))).tolist())


def test_time_stamps_come_in_pairs_and_never_go_back():
    words = jnp.where(jnp.arange(VOCABULARY) < FIRST, 5.0, 0.0)  # each likelier than all stamps together
    end, stamps = tokens().end_id, set(range(FIRST, VOCABULARY))
    assert allowed_after([], words) == set(range(FIRST, FIRST + 51))  # a stamp of the first second
    assert allowed_after([FIRST + 4], words) == set(range(FIRST)) - {1, tokens().plain_id}  # words after it
    assert allowed_after([FIRST + 4, 3], words) == set(range(VOCABULARY)) - {1, tokens().plain_id} - set(
        range(FIRST, FIRST + 5)
    )
    after = allowed_after([FIRST + 4, 3, FIRST + 9], words)  # the next begins no earlier, or all is said
    assert after & stamps == set(range(FIRST + 9, VOCABULARY))
    assert after & set(range(FIRST)) == set(range(end, FIRST)) - {tokens().plain_id}
    assert not allowed_after([FIRST + 4, 3, FIRST + 9, FIRST + 9], words) & stamps


def test_stamps_that_are_likelier_in_sum_exclude_words():
    flat = jnp.zeros(VOCABULARY)  # many stamps, each as likely as each word
    assert not allowed_after([FIRST, 3], flat) & set(range(FIRST))


def test_rules_are_those_of_the_peer():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GenerationConfig(eos_token_id=tokens().end_id, max_initial_timestamp_index=50)
    config.no_timestamps_token_id = tokens().plain_id
    process = transformers.generation.logits_process.WhisperTimeStampLogitsProcessor(config, begin_index=1)
    random = np.random.default_rng(0)
    for _ in range(30):
        pairs = sorted(random.integers(0, 20, 3).tolist())
        written = [FIRST + pairs[0], 3, 4, FIRST + pairs[1], FIRST + pairs[1], 5, FIRST + pairs[2]]
        written = written[: random.integers(0, 8)]
        logits = np.asarray(3 * random.standard_normal(VOCABULARY), np.float32)
        masked = torch.tensor(logits)[None].clone()
        masked[:, [1, 2] if not written else [1]] = -float("inf")
        expected = process(torch.tensor([[9, *written]]), masked)[0]
        assert allowed_after(written, jnp.asarray(logits)) == set(torch.isfinite(expected).nonzero()[:, 0].tolist())


def test_what_was_written_is_cut_where_two_stamps_meet():
    stamp = lambda seconds: FIRST + round(seconds / 0.02)  # noqa: E731
    cut = lambda *written: tokens().segments(list(written), 1.0)  # noqa: E731
    segments, covered = cut(stamp(0), 3, 4, stamp(0.4), stamp(0.5), 5, stamp(0.8), stamp(0.8))
    assert [(s.start, s.end, s.tokens) for s in segments] == [(0.0, 0.4, [3, 4]), (0.5, 0.8, [5])]
    assert covered == 0.8  # what begins there is heard again
    segments, covered = cut(stamp(0), 3, stamp(0.4), stamp(0.4), 5, stamp(0.8))
    assert [(s.start, s.end) for s in segments] == [(0.0, 0.4), (0.4, 0.8)]
    assert covered == 1.0  # nothing is said after
    [segment], covered = cut(stamp(0), 3, stamp(0.6))
    assert (segment.start, segment.end, covered) == (0.0, 0.6, 1.0)
    [segment], covered = cut(3, 4)
    assert (segment.start, segment.end, covered) == (0.0, 1.0, 1.0)


def test_gradients_show_that_a_token_hears_all_and_reads_what_stands_before():
    model, params = whisper().model, whisper().params
    embedded = params["decoder"]["embeddings"]["position"]["embedding"]

    def logit(spectrogram, table, position):
        decoder = params["decoder"]
        embeddings = decoder["embeddings"] | {"position": {"embedding": table}}
        changed = params | {"decoder": decoder | {"embeddings": embeddings}}
        found: Any = model.apply({"params": changed}, spectrogram, WRITTEN[:1])
        return jnp.sum(found[0, position])

    heard, read = jax.jit(jax.grad(logit, argnums=(0, 1)))(SPECTROGRAM[:1], embedded, 4)
    assert (jnp.abs(heard).max(axis=(0, 2)) > 0).all()
    sees = np.abs(read).max(axis=1) > 0
    assert sees.tolist() == [place <= 4 for place in range(DECODER.maximum_positions)]
    assert isinstance(model.decoder, Gpt)
