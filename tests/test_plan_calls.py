"""Plans of commands that write texts, and of training a translator: the calls of a run, on its shapes and shardings."""

import dataclasses
import json
from typing import Any

import jax
import pytest

from bert_jax.generation import Generator
from bert_jax.generation_settings import GenerationSettings, Shape
from bert_jax.gpt import Gpt
from bert_jax.gpt_weights import write_hf as write_gpt
from bert_jax.parallel_texts import BucketedBatches, EncodedPairs
from bert_jax.translation import Translator, batch_shapes, step_flops, translation_loss
from core_jax.beam_search import BeamSettings
from core_jax.errors import UserError
from core_jax.flops import count_flops
from core_jax.plan import READING, WRITING, Planner
from core_jax.sharding import on_mesh, parse_mesh, with_shardings
from core_jax.topologies import CHIPS, GIB, describe_devices, parse_topology
from experiments import finetune, generate, planning, predict
from experiments.speech.recognizer import HEARING
from experiments.speech.weights import write_hf
from tests import test_translation
from tests.byte_pieces import byte_tokenizer
from tests.test_marian import peer_folder
from tests.tiny_gpt import CONFIG, changed, random_params
from tests.tiny_whisper import DECODER, tokenizer, whisper


@pytest.fixture(autouse=True)
def slice_of_this_machine(monkeypatch):
    """Chips of a slice are CPUs."""
    monkeypatch.setattr(planning, "describe_devices", lambda topology: jax.devices()[: topology.chips])


def planned(capsys, command, *flags):
    """The exit code, and what was planned of each call."""
    capsys.readouterr()
    code = command.main(list(flags))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return code, {line["call"]: line for line in lines}


def check(found, chips):
    for call in found.values():
        assert call["fits"]
        assert call["chips"] == chips
        assert 0 < call["arguments_bytes"] < call["peak_bytes"] < 16 * GIB
        assert call["step_seconds_bound"] > 0


class Lowered(Planner):
    """Keeps the text of each call beside its plan."""

    def __call__(self, name: str, units: int, unit: str, function: Any, *arguments: Any) -> Any:
        with jax.set_mesh(self.mesh):
            self.texts = getattr(self, "texts", {}) | {name: function.lower(*arguments).as_text()}
        return super().__call__(name, units, unit, function, *arguments)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_planned_is_what_runs(beams):
    """The text of each call that a plan compiles is that of the call of a run on the same mesh."""
    mesh = parse_mesh("data:2,tensor:2", devices=jax.devices()[:4])
    settings = GenerationSettings(max_new_tokens=4, search=BeamSettings(beams=beams))
    shape = Shape.of([5, 3, 4], settings, CONFIG.maximum_positions, 8 * beams, mesh)
    planner, params = Lowered(mesh, parse_topology("v5e-4")), random_params()
    shapes = with_shardings(jax.eval_shape(lambda: params), mesh)
    generators = [
        Generator(Gpt(CONFIG), given, settings, shape, mesh, pieces=50, end_ids=(0,))
        for given in (shapes, on_mesh(params, mesh))
    ]
    with jax.set_mesh(mesh):
        generators[0].plan(planner)
    ran: dict[str, str] = {}
    generator: Any = generators[1]

    def note(owner, method, name):
        function = getattr(owner, method)

        def call(*arguments):
            ran.setdefault(name, function.lower(*arguments).as_text())
            return function(*arguments)

        setattr(owner, method, call)

    note(generator, "_prefill", READING)
    note(generator._searcher if beams > 1 else generator._decoder, "advance", WRITING)
    generator.write([[1, 2, 3, 4, 5], [6, 7, 8]], [0, 1])
    assert planner.texts == ran
    assert planner.calls[WRITING].units == shape.prompts * beams


def test_generate(tmp_path, capsys):
    tokens = byte_tokenizer()
    config = changed(vocab_size=tokens.vocab_size, maximum_positions=64)
    write_gpt(tmp_path / "gpt", config, random_params(config), tokens)
    flags = [f"--init=hf:{tmp_path}/gpt", "--plan=v5e-4", "--mesh=data:4", "--batch_size=8", "--max_new_tokens=16"]
    code, longest = planned(capsys, generate, *flags)
    assert code == 0
    check(longest, 4)
    assert {name: call["units"] for name, call in longest.items()} == {READING: 8 * 48, WRITING: 8}
    short = planned(capsys, generate, *flags, "a prompt")[1]
    assert short[READING]["units"] == 4 * 16
    assert short[READING]["flops"] < longest[READING]["flops"]


def test_transcribe(tmp_path, capsys, monkeypatch):
    write_hf(tmp_path / "whisper", whisper(), tokenizer().to_str())
    flags = [f"--init=hf:{tmp_path}/whisper", "--plan=v5e-4", "--mesh=data:2,tensor:2", "--batch_size=6"]
    code, found = planned(capsys, predict, *flags)
    assert code == 0
    check(found, 4)
    assert {name: call["units"] for name, call in found.items()} == {HEARING: 6, WRITING: 6}
    # A token costs two operations for each weight that it meets, and what it looks at.
    weights = DECODER.depth * (6 * DECODER.width**2 + 2 * DECODER.width * DECODER.mlp_width)
    weights += DECODER.width * DECODER.vocab_size
    looked = DECODER.depth * 4 * DECODER.width * (DECODER.maximum_positions + whisper().encoder.maximum_positions)
    assert found[WRITING]["flops"] == 6 * (2 * weights + looked) / 4
    small = dataclasses.replace(CHIPS["v5e"], hbm_bytes=found[HEARING]["arguments_bytes"])
    monkeypatch.setitem(CHIPS, "v5e", small)
    code, found = planned(capsys, predict, *flags)
    assert code == planning.DOES_NOT_FIT
    assert not found[HEARING]["fits"]


@pytest.mark.slow
def test_translate(tmp_path, capsys):
    peer_folder(tmp_path / "peer")
    flags = [f"--init=hf:{tmp_path}/peer", "--plan=v5e-1", "--mesh=data:1"]
    code, found = planned(capsys, predict, *flags, "--beams=2")
    assert code == 0
    check(found, 1)
    assert {name: call["units"] for name, call in found.items()} == {READING: 32 * 64, WRITING: 32 * 2}
    with pytest.raises(UserError, match="--plan=v5e-3: no such slice"):
        predict.main([flags[0], "--plan=v5e-3"])


def test_training_of_a_translator(tmp_path, capsys):
    flags = ["--task=translation", "--plan=v5e-8", "--mesh=data:4,fsdp:2", f"--workdir={tmp_path}", "--width=32"]
    flags += ["--heads=2", "--mlp_width=64", "--vocab_size=64", "--sequence_length=24", "--global_batch_size=16"]
    assert finetune.main([*flags, "--depth=1", "--encoder_depth=1"]) == 0
    printed = capsys.readouterr().out
    assert "16 pairs of 24 + 24 tokens, on v5e:2x4" in printed
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"]
    assert set(found["collectives"]) >= {"all-reduce", "all-gather"}
    with pytest.raises(UserError, match="--global_batch_size=6 does not divide"):
        finetune.main([*flags, "--global_batch_size=6"])


def test_operations_and_shapes_of_a_translator_are_those_of_its_step():
    config, length = test_translation.CONFIG, 12
    shapes = batch_shapes(3, length)
    pairs = EncodedPairs([[5] * length] * 3, [[6] * length] * 3, 0)
    [batch] = BucketedBatches(pairs, config, length, 3, 0).evaluation(parse_mesh("data:1", devices=jax.devices()[:1]))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )
    loss = translation_loss(Translator(config), train=False)
    params = jax.eval_shape(test_translation.random_params)
    forward = count_flops(lambda p, b: loss(p, b, jax.random.key(0))[0], params, shapes)
    hidden = 3 * config.depth * 4 * config.width * (length * length - length * (length + 1) // 2)  # by the causal mask
    assert forward == step_flops(config, 3, length) // 3 + hidden


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "transcribe", "train"])
def test_plans_by_the_real_compiler(tmp_path, capsys, monkeypatch, command):
    monkeypatch.setattr(planning, "describe_devices", describe_devices)
    if command == "train":
        test_training_of_a_translator(tmp_path, capsys)
    elif command == "generate":
        test_generate(tmp_path, capsys)
    else:
        test_transcribe(tmp_path, capsys, monkeypatch)
