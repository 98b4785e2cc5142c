"""`experiments.generate`: prompts of any length, alone or together, on any mesh; streaming, stop strings, mistakes."""

import dataclasses
import io
import json
import re
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bert_jax.generation import Generator
from bert_jax.generation_settings import GenerationSettings, Shape
from bert_jax.gpt_starting_points import open_gpt
from bert_jax.gpt_weights import write_hf
from core_jax.beam_search import BeamSettings
from core_jax.decoding import row_keys
from core_jax.errors import UserError
from core_jax.logit_filters import LogitFilters
from core_jax.sharding import parse_mesh
from experiments import generate, pretrain
from tests.byte_pieces import byte_tokenizer
from tests.tiny_gpt import changed, random_params
from tests.tiny_run import flags, write_text

POSITIONS = 64
TEXTS = ["One.", "A longer prompt,", "b"]


@pytest.fixture(scope="module")
def init(tmp_path_factory):
    """A folder of a GPT with random weights, such that texts do not all repeat one piece."""
    folder = tmp_path_factory.mktemp("gpt") / "model"
    tokenizer = byte_tokenizer()
    config = changed(vocab_size=tokenizer.vocab_size, maximum_positions=POSITIONS, heads=2)
    config = dataclasses.replace(config, width=32)
    params = random_params(config)
    params["embeddings"]["token"]["embedding"] *= 3.0
    params["embeddings"]["position"]["embedding"] *= 8.0
    write_hf(folder, config, params)
    tokenizer.save(folder)
    return f"hf:{folder}"


def run(capsys, init, *arguments, code=0):
    """The JSON lines of a command."""
    assert generate.main([f"--init={init}", "--mesh=data:1", "--max_new_tokens=12", *arguments]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def continuations(init, settings, mesh_text, texts=TEXTS, numbers=None):
    mesh = parse_mesh(mesh_text)
    gpt = open_gpt(init, mesh, "float32", print)
    prompts = gpt.encode(texts)
    shape = Shape.of([len(prompt) for prompt in prompts], settings, POSITIONS, 16, mesh)
    pieces = {"pieces": gpt.tokenizer.vocab_size, "end_ids": gpt.ends}
    generator = Generator(gpt.model, gpt.params, settings, shape, mesh, **pieces)
    found = generator.write(prompts, numbers or range(len(texts)))
    return [[one.tokens for one in several] for several in found]


SETTINGS = [
    GenerationSettings(max_new_tokens=12, filters=LogitFilters(repetition_penalty=1.3)),
    GenerationSettings(max_new_tokens=12, filters=LogitFilters(temperature=1.0, top_p=0.9), samples=2, seed=4),
    GenerationSettings(max_new_tokens=12, search=BeamSettings(beams=3), samples=2),
]


def test_every_end_that_the_folder_names_ends_a_text(init, capsys, tmp_path):
    [plain] = run(capsys, init, TEXTS[0])
    shutil.copytree(init.removeprefix("hf:"), tmp_path / "model")
    gpt = open_gpt(init, parse_mesh("data:1"), "float32", print)
    [[tokens]] = continuations(init, GenerationSettings(max_new_tokens=12), "data:1", TEXTS[:1])
    ends = {"eos_token_id": [gpt.tokenizer.end_id, tokens[3]]}
    (tmp_path / "model/generation_config.json").write_text(json.dumps(ends))
    [found] = run(capsys, f"hf:{tmp_path}/model", TEXTS[0])
    assert (plain["ending"], found["ending"]) == ("length", "end")
    assert found["text"] == gpt.tokenizer.decode(tokens[: tokens.index(tokens[3])])


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_alone_together_and_on_any_mesh_the_tokens_are_the_same(init, settings):
    together = continuations(init, settings, "data:1")
    alone = [continuations(init, settings, "data:1", [text], [number])[0] for number, text in enumerate(TEXTS[:2])]
    assert together[:2] == alone
    assert together == continuations(init, settings, "data:2,fsdp:2,tensor:2")
    assert all(len(row) == 12 for several in together for row in several)
    assert len({tuple(row) for several in together for row in several}) == len(TEXTS) * settings.samples


@pytest.mark.slow
def test_the_cache_lies_on_the_axes_of_data_and_heads(init):
    mesh = parse_mesh("data:2,fsdp:2,tensor:2")
    gpt, settings = open_gpt(init, mesh, "float32", print), GenerationSettings(max_new_tokens=12)
    shape = Shape.of([3] * 4, settings, POSITIONS, 4, mesh)
    pieces = {"pieces": gpt.tokenizer.vocab_size, "end_ids": gpt.ends}
    generator = Generator(gpt.model, gpt.params, settings, shape, mesh, **pieces)
    with jax.set_mesh(mesh):
        tokens, valid = map(generator._put, generator._pad([[1, 2, 3]] * 4))
        _, cache, _ = generator._prefill(generator._params, tokens, valid)
        keys = row_keys(0, range(4), [0] * 4)
        assert generator._decoder is not None
        state = generator._decoder.start(jnp.zeros((4, 257)), cache, keys, jnp.zeros(4, bool))
        after, _ = generator._decoder.advance(generator._params, state, keys, jnp.int32(2))
    for one in (cache, after.cache):
        part = one.layers["block_0"].keys.addressable_shards[0].data.shape
        whole = one.layers["block_0"].keys.shape
        assert part[:2] == (whole[0] // 4, whole[1] // 2)


def test_lines_of_json_in_the_order_of_the_prompts_up_to_a_stop_string(init, capsys, tmp_path):
    whole = run(capsys, init, *TEXTS)
    assert [line["prompt"] for line in whole] == TEXTS
    assert all((line["tokens"], line["ending"]) == (12, "length") for line in whole)
    stop = whole[0]["text"][-5:-3]
    assert stop.isascii()
    (tmp_path / "prompts.txt").write_text("\n".join([*TEXTS, ""]))
    given = (f"--file={tmp_path / 'prompts.txt'}", "--batch_size=2", f"--stop={stop}", "--stop=not there")
    for line, stopped in zip(whole, run(capsys, init, *given), strict=True):
        before, found, _ = line["text"].partition(stop)
        assert (stopped["prompt"], stopped["text"]) == (line["prompt"], before)
        assert stopped["ending"] == ("stop" if found else "length")


@pytest.mark.slow
def test_prompts_come_from_standard_input(init, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("One.\n\nb\n"))
    assert [line["prompt"] for line in run(capsys, init)] == ["One.", "b"]


@pytest.mark.slow
def test_samples_differ_and_seeds_repeat(init, capsys):
    drawn = ("One.", "--temperature=1", "--samples=3")
    lines = run(capsys, init, *drawn)
    assert [line["sample"] for line in lines] == [0, 1, 2]
    assert len({line["text"] for line in lines}) == 3
    assert run(capsys, init, *drawn) == lines
    assert run(capsys, init, *drawn, "--seed=1") != lines
    assert run(capsys, init, "One.", "--temperature=1")[0]["text"] == lines[0]["text"]


@pytest.mark.slow
def test_beams_have_scores_the_best_first(init, capsys):
    scores = [line["score"] for line in run(capsys, init, "One.", "--beams=3", "--samples=3")]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_single_text_is_shown_as_it_comes(init, capsys, monkeypatch):
    [line] = run(capsys, init, "One.")
    monkeypatch.setattr(generate.console, "_force_terminal", True)
    parts = []
    monkeypatch.setattr(generate, "_show", parts.append)
    assert generate.main([f"--init={init}", "--mesh=data:1", "--max_new_tokens=12", "One."]) == 0
    assert "".join(parts) == f"One.{line['text']}\n"
    assert len([part for part in parts if part]) > 3
    assert "a second" in capsys.readouterr().err


@pytest.mark.slow
def test_a_text_of_a_run_starts_with_the_end_piece(capsys, tmp_path):
    sizes = {"sequence_length": 32, "maximum_positions": 32, "vocab_size": 300, "steps": 1}
    folder = tmp_path / "run"
    given = flags(folder, write_text(tmp_path / "text.txt"), **sizes, evaluation_passes=None)
    assert pretrain.main(["gpt-mini", *(flag for flag in given if not flag.endswith("=None"))]) == 0
    capsys.readouterr()
    [line] = run(capsys, str(folder), "w1 w2")
    gpt = open_gpt(str(folder), parse_mesh("data:1"), "float32", pytest.fail)
    [tokens] = gpt.encode(["w1 w2"])
    start, end = len(tokens), gpt.tokenizer.end_id
    read: Any = jax.jit(lambda params, row: gpt.model.apply({"params": params}, row))
    assert tokens[0] == end
    while len(tokens) < start + 12 and (len(tokens) == start or tokens[-1] != end):
        row = jnp.array([tokens + [0] * (32 - len(tokens))])  # what comes after is not seen
        tokens.append(int(jnp.argmax(read(gpt.params, row)[0, len(tokens) - 1])))
    assert line["text"] == gpt.tokenizer.decode([token for token in tokens[start:] if token != end])


def test_a_run_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {"causal": false}}')
    with pytest.raises(UserError, match=r"is of no GPT; .*experiments\.predict --init="):
        generate.main([f"--init={tmp_path}", "a"])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ([], "no prompt given; type one"),
        ([""], "the prompt is empty; type a few words"),
        (["a", " "], "prompt 2 is empty"),
        (["a" * 70], "has 70 tokens, and the model reads 64 at most, one of them new: it is 7 too long"),
        (["a" * 60], "--max_new_tokens=12 more are 72: .* Use --max_new_tokens=4 or less"),
        (["a", "--file=x"], "prompts and --file=x are given"),
        (["--file=/no/such/file"], "--file=/no/such/file cannot be read"),
        (["a", "--beams=2", "--temperature=1"], "--beams=2 .*--temperature=1.0 .*leave one of them out"),
        (["a", "--beams=2", "--samples=3"], "--samples=3 with --beams=2: .* use --beams=3"),
        (["a", "--samples=3"], "--samples=3: .*add --temperature=1"),
        (["a", "--beams=2", "--stop=x"], "--beams=2 .*--stop='x'"),
        (["a", "--top_k=5"], "--top_k: .*add --temperature=1"),
        (["a", "--stop="], "--stop=: .*leave it out"),
        (["a", "--max_new_tokens=0"], "--max_new_tokens=0: expected 1 or more"),
        (["a", "--mesh=tensor:4"], "--mesh=.*4"),
        (["a", "--init=hf:/no/such/folder"], "/no/such/folder holds no config.json"),
        (["a", "--init=/no/such/folder"], "/no/such/folder"),
        (["caf\udce9"], "an argument is not in UTF-8: .*iconv"),
        (["a", f"--seed={2**32}"], f"--seed={2**32}: expected"),
    ],
)
def test_mistakes_are_answered_before_anything_is_compiled(init, monkeypatch, capsys, mistake, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises((UserError, SystemExit)) as error:
        generate.main([f"--init={init}", "--mesh=data:1", "--max_new_tokens=12", *mistake])
    said = " ".join(f"{error.value} {capsys.readouterr().err}".replace("│", "").split())
    assert re.search(message, said), said
