"""GPT-2 of `transformers`: the same logits, losses and gradients, the way back to the bit, other models refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.gpt import Gpt
from bert_jax.gpt_names import from_peer, peer_shapes
from bert_jax.gpt_tasks import next_token_loss
from bert_jax.gpt_weights import read_hf, write_hf
from core_jax.errors import UserError
from core_jax.safetensors_files import FILE
from core_jax.sharding import by_path
from core_jax.transformer import stack_layers, unstack_layers
from tests.tiny_gpt import CONFIG, changed, random_params, random_tokens

LAYER = {
    "ln_1.weight": (24,),
    "ln_1.bias": (24,),
    "attn.c_attn.weight": (24, 72),
    "attn.c_attn.bias": (72,),
    "attn.c_proj.weight": (24, 24),
    "attn.c_proj.bias": (24,),
    "ln_2.weight": (24,),
    "ln_2.bias": (24,),
    "mlp.c_fc.weight": (24, 40),
    "mlp.c_fc.bias": (40,),
    "mlp.c_proj.weight": (40, 24),
    "mlp.c_proj.bias": (24,),
}
SHAPES = {  # as `transformers` saves GPT2LMHeadModel
    "transformer.wte.weight": (54, 24),
    "transformer.wpe.weight": (17, 24),
    **{f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
    "transformer.ln_f.weight": (24,),
    "transformer.ln_f.bias": (24,),
}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def change_tensors(folder, change):
    safetensors.numpy.save_file(change(dict(safetensors.numpy.load_file(folder / FILE))), folder / FILE)


def test_names_and_shapes_on_disk_are_those_of_the_peer(tmp_path):
    params = random_params()
    write_hf(tmp_path / "out", CONFIG, params)
    tensors = safetensors.numpy.load_file(tmp_path / "out" / FILE)
    assert {name: value.shape for name, value in tensors.items()} == SHAPES
    attention = params["decoder"]["block_1"]["attention"]
    # Unit 1 of head 2 of the keys stands behind the 24 of the queries; inputs are rows.
    joint = tensors["transformer.h.1.attn.c_attn.weight"]
    np.testing.assert_array_equal(joint[:, 24 + 2 * 6 + 1], attention["key"]["kernel"][:, 2, 1])
    assert tensors["transformer.h.1.attn.c_attn.bias"][48 + 13] == attention["value"]["bias"][2, 1]
    out = tensors["transformer.h.1.attn.c_proj.weight"]
    np.testing.assert_array_equal(out[2 * 6 + 1], attention["out"]["kernel"][2, 1])


@pytest.mark.parametrize("scanned", [False, True])
def test_there_and_back_is_the_identity(tmp_path, scanned):
    params = random_params()
    given = params | {"decoder": stack_layers(params["decoder"])} if scanned else params
    write_hf(tmp_path / "a", CONFIG, given)
    first = read_hf(tmp_path / "a")
    assert dataclasses.replace(first.config, dtype="float32") == CONFIG
    assert_same(first.params, params)
    write_hf(tmp_path / "b", first.config, first.params)
    for name in ("config.json", FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_older_names_masks_and_tied_copies(tmp_path):
    write_hf(tmp_path / "out", CONFIG, random_params())

    def older(tensors):
        tensors = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        masks = {
            "h.0.attn.bias": np.ones((1, 1, 17, 17), np.float32),
            "h.1.attn.masked_bias": np.full(1, -1e4, np.float32),
        }
        return tensors | masks | {"lm_head.weight": tensors["wte.weight"].copy()}

    change_tensors(tmp_path / "out", older)
    assert_same(read_hf(tmp_path / "out").params, random_params())


def test_all_that_is_wrong_with_tensors_is_said_at_once(tmp_path):
    write_hf(tmp_path / "out", CONFIG, random_params())

    def spoil(tensors):
        del tensors["transformer.h.0.mlp.c_fc.bias"]
        tensors["transformer.h.1.attn.c_attn.weight"] = tensors["transformer.h.1.attn.c_attn.weight"].T.copy()
        return tensors | {"transformer.h.7.strange": np.zeros(2), "lm_head.weight": np.zeros((54, 24), np.float32)}

    change_tensors(tmp_path / "out", spoil)
    with pytest.raises(UserError) as caught:
        read_hf(tmp_path / "out")
    assert {line.strip() for line in str(caught.value).splitlines()[1:]} == {
        "h.0.mlp.c_fc.bias: missing",
        "h.7.strange: unknown",
        "h.1.attn.c_attn.weight: of shape (72, 24), expected (24, 72)",
        "lm_head.weight: differs from wte.weight, to which it must be tied",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', expected one of gelu, gelu_new"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"model_type": "gpt_neo"}, "model_type is 'gpt_neo', expected 'gpt2'"),
        ({"n_embd": "wide"}, "cannot be read"),
        ({"n_inner": 41}, r"\(24, 40\), expected \(24, 41\)"),
        ({"n_head": 5}, "does not divide"),
    ],
)
def test_configs_of_other_models(tmp_path, changes, message):
    write_hf(tmp_path / "out", CONFIG, random_params())
    file = tmp_path / "out" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UserError, match=message):
        read_hf(tmp_path / "out")


def random_batch(config, rows=5, length=13):
    """Texts of several lengths, with padding that has contents."""
    random = np.random.default_rng(1)
    lengths = random.integers(2, length + 1, (rows, 1))
    tokens, places = np.array(random_tokens(rows, length + 1, config=config)), np.arange(length)
    return {
        "tokens": tokens[:, :-1],
        "segments": (places < lengths).astype(np.int32),
        "positions": np.broadcast_to(places, (rows, length)).astype(np.int32),
        "labels": tokens[:, 1:],
        "weights": {"next": (places < lengths - 1).astype(np.float32)},
    }


def peer_results(folder, batch):
    """Logits, loss and gradients by our paths, of the peer."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager", dtype="float32").eval()
    tokens, segments = (torch.tensor(batch[name].astype(np.int64)) for name in ("tokens", "segments"))
    labels = torch.where(segments > 0, tokens, -100)  # the peer shifts them itself
    out = model(input_ids=tokens, attention_mask=segments, labels=labels)
    out.loss.backward()
    gradients = {name.removeprefix("transformer."): np.asarray(value.grad) for name, value in model.named_parameters()}
    return out.logits.detach().numpy(), out.loss.item(), gradients


@pytest.mark.parametrize(
    ("gelu", "mlp_width", "scan_layers"),
    [("gelu_new", None, False), pytest.param("gelu", 44, True, marks=pytest.mark.slow)],
)
def test_random_models_of_the_peer_agree(tmp_path, gelu, mlp_width, scan_layers):
    transformers = pytest.importorskip("transformers")
    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    sizes = {"vocab_size": 71, "n_positions": 23, "n_embd": 30, "n_layer": 3, "n_head": 5, "n_inner": mlp_width}
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    peer_config = transformers.GPT2Config(**sizes, **rates, activation_function=gelu, initializer_range=0.12)
    peer = transformers.GPT2LMHeadModel(peer_config)
    with torch.no_grad():
        for parameter in peer.parameters():  # biases that are not 0, scales that are not 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path)
    imported = read_hf(tmp_path)
    batch = random_batch(imported.config)
    logits, loss, gradients = peer_results(tmp_path, batch)

    model = Gpt(dataclasses.replace(imported.config, dtype="float32", scan_layers=scan_layers))
    params = imported.params
    params = params | {"decoder": stack_layers(params["decoder"])} if scan_layers else params
    compute = jax.jit(jax.value_and_grad(next_token_loss(model, train=True), has_aux=True))
    (our_loss, _), ours = compute(params, batch, jax.random.key(0))
    our_logits = jax.jit(model.apply)({"params": params}, *(batch[name] for name in ("tokens", "segments")))
    real = batch["segments"] > 0
    np.testing.assert_allclose(np.asarray(our_logits)[real], logits[real], 1e-5, 1e-5)
    np.testing.assert_allclose(our_loss, loss, 1e-5)
    ours = ours | {"decoder": unstack_layers(ours["decoder"])} if scan_layers else ours
    found = by_path(ours)
    shapes = {path: leaf.shape for path, leaf in found.items()}
    assert peer_shapes(shapes).keys() == gradients.keys()
    for path, expected in from_peer(gradients, shapes).items():
        np.testing.assert_allclose(found[path], expected, 1e-5, 1e-5, err_msg=path)


def test_scanned_configs_are_no_matter_of_the_folder(tmp_path):
    write_hf(tmp_path / "out", changed(scan_layers=True), random_params())
    assert not read_hf(tmp_path / "out").config.scan_layers
