"""The benchmark: both sides compute the same, rates count no padding, and ratios are those of the same round."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from bert_jax.gpt_config import SIZES
from core_jax.errors import UserError
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import report
from experiments.benchmark.generation_material import make_generation_material
from experiments.benchmark.labelled_material import LabelledSource, make_labelled_material
from experiments.benchmark.material import make_material
from experiments.benchmark.modes import GENERATION, IMAGES, LABELLED, MODES, TASKS, Task, parse_modes
from experiments.benchmark.our_labels import embedding_rows, tuning_rows
from experiments.benchmark.ours import count_useful, load_rows
from experiments.benchmark.pairs import IGNORED, group_by_length, load_pairs, pad_to_longest, useful_tokens
from experiments.benchmark.turns import WorkerError, started
from experiments.benchmark.vit_material import make_vit_material
from experiments.benchmark.worker import open_side
from experiments.benchmark.workplace import Workplace
from tests.tiny_run import write_text
from vit_jax.presets import PRESETS

LENGTH, POSITIONS = 32, 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("benchmark")
    text = write_text(place / "text.txt")
    make_material(str(place), str(place / "text"), "bert-tiny", f"text:{text}", [LENGTH], POSITIONS, lambda _: None)
    return str(place)


def workplace(folder, task: Task = "training"):
    return Workplace(folder, task, LENGTH)


@pytest.fixture(scope="module")
def labelled_folder(tmp_path_factory):
    place, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    sentences = [" ".join(f"W{n}" for n in random.integers(0, 60, size)) for size in random.integers(1, 20, 200)]
    lines = [
        {"text": f"{first}. {second}.", "label": f"c{len(first) % 3}"}
        for first, second in zip(sentences[::2], sentences[1::2], strict=True)
    ]
    (place / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = LabelledSource("bert-tiny", "", f"jsonl:{place / 'texts.jsonl'}", texts=80)
    make_labelled_material(str(place), str(place / "text"), source, LABELLED, [LENGTH], lambda _: None)
    return str(place)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    preset, place = PRESETS["vit-b16"], str(tmp_path_factory.mktemp("images"))
    sizes = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64, "image_size": f"{LENGTH}", "patch_size": 8}
    preset = dataclasses.replace(preset, model=dataclasses.replace(preset.model, **sizes))
    make_vit_material(place, preset, POSITIONS, peer=importlib.util.find_spec("transformers") is not None)
    return place


@pytest.fixture(scope="module")
def generation_folder(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("generation"))
    small = dataclasses.replace(SIZES["gpt-mini"], width=32, depth=2, heads=2, mlp_width=64, vocab_size=500)
    make_generation_material(place, small, [LENGTH])
    return place


@pytest.fixture
def place_of(folder, labelled_folder, image_folder, generation_folder):
    """The folder of a task."""
    others = dict.fromkeys(LABELLED, labelled_folder) | dict.fromkeys(IMAGES, image_folder)
    return lambda task: (others | {GENERATION: generation_folder}).get(task, folder)


class StillWorkplace(Workplace):
    """Without dropout."""

    def config(self):
        config = super().config()
        return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0, attention_dropout=0.0))


def test_packed_and_padded_hold_the_same_pairs_and_count_the_same_tokens(folder):
    work = workplace(folder)
    rows, pairs = load_rows(work), load_pairs(work.pairs_file)
    assert len(rows) == len(pairs) > 1
    for packed, batch in zip(rows, pairs, strict=True):
        padded = pad_to_longest(batch, work.pad_id)
        own = [
            packed["tokens"][row][packed["segments"][row] == segment]
            for row in range(len(packed["tokens"]))
            for segment in range(1, packed["segments"][row].max() + 1)
        ]
        seen = [row[mask > 0] for row, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)]
        assert [tokens.tolist() for tokens in own] == [tokens.tolist() for tokens in seen]
        assert count_useful(packed) == useful_tokens(batch) == padded["attention_mask"].sum()
        assert useful_tokens(batch) < padded["input_ids"].size  # there was padding to leave out
        assert sorted(padded["labels"][padded["labels"] != IGNORED]) == sorted(
            packed["mlm_labels"][packed["weights"]["mlm"] > 0]
        )
        assert padded["next_sentence_label"].tolist() == packed["nsp_labels"][packed["weights"]["nsp"] > 0].tolist()


def test_grouped_batches_hold_the_same_pairs_with_less_padding(folder):
    work = workplace(folder)
    batches = load_pairs(work.pairs_file)
    grouped = group_by_length(batches)

    def identities(batches):
        return sorted(pair.tokens.tobytes() for batch in batches for pair in batch)

    def padding(batches):
        return sum(pad_to_longest(batch, work.pad_id)["input_ids"].size for batch in batches)

    assert identities(grouped) == identities(batches)
    assert len(grouped) == len(batches)
    assert padding(grouped) < padding(batches)
    assert len(grouped[0][0].tokens) == max(len(pair.tokens) for batch in batches for pair in batch)


def cell_of(rates, checks=None):
    cell = report.Cell("training", LENGTH, checks=checks or {})
    for mode, batching, tokens in rates:
        for count in tokens:
            cell.add(mode, {"rates": {batching: [2.0, 2 * count, 4.0]}, "peak_bytes": 10**9})
    return cell


def test_ratios_are_of_one_round_and_against_our_best():
    cell = cell_of(
        [
            ("ours-bfloat16", "packed", [300, 200, 400]),
            ("ours-float32", "packed", [100, 100, 100]),
            ("eager-float32", "dynamic", [100, 100, 100]),
            ("eager-float32", "grouped", [150, 50, 160]),
        ]
    )
    assert cell.ratios(("eager-float32", "dynamic")) == [3.0, 2.0, 4.0]
    assert cell.ratios(("eager-float32", "grouped")) == [2.0, 4.0, 2.5]
    assert cell.entries(ours=False)[0] == ("eager-float32", "grouped")  # the peer's best, by median
    assert report.describe_ratios([2.0, 4.0, 2.5]) == "2.50 (2.00-4.00)"
    assert report.verdict(cell).startswith(f"training at {LENGTH}: 2.50 times the peer's best (eager-float32, grouped)")
    assert [row[1] for row in report.table(cell)] == ["300", "100", "150", "100"]
    assert cell.processor_rates["eager-float32", "grouped"] == [75, 25, 80]
    assert cell.ratios(("eager-float32", "grouped"), of_processor=True) == [2.0, 4.0, 2.5]
    assert "ratio" not in report.verdict(cell_of([("ours-float32", "packed", [7])]))


def test_disagreement_is_seen():
    checks = {"ours-float32": [2.0], "ours-bfloat16": [2.01], "eager-float32": [2.0001]}
    assert cell_of([], checks).disagreements() == []
    assert cell_of([], checks | {"ours-float32": [2.001]}).disagreements() != []
    assert cell_of([], checks | {"ours-bfloat16": [2.1]}).disagreements() != []
    assert cell_of([], checks | {"ours-float32": [float("nan")]}).disagreements() != []
    assert cell_of([], checks | {"ours-float32": [2.0, 2.0]}).disagreements() != []
    assert cell_of([], {"ours-float32": [2.0]}).differences() == {}  # nothing to compare with


def test_modes_are_chosen_by_name():
    assert [str(mode) for mode in parse_modes("", "transformers")] == list(MODES)
    assert [str(mode) for mode in parse_modes("", "none")] == ["ours-bfloat16", "ours-float32"]
    for wrong in ("ours-float16", "eager-float32"):
        with pytest.raises(UserError, match="ours"):
            parse_modes(wrong, "transformers")


def test_labelled_batches_hold_the_examples_that_the_peer_gets(labelled_folder):
    work = workplace(labelled_folder, "finetuning")
    batches = load_pairs(work.pairs_file)
    assert len(batches) == 3
    for packed, batch in zip(tuning_rows(batches, work), batches, strict=True):
        there = packed["weights"]["label"] > 0
        assert sorted(packed["labels"][there].tolist()) == sorted(pair.label for pair in batch)
        assert count_useful(packed) == useful_tokens(batch)


def test_texts_to_embed_stand_in_full_rows_of_one_shape(labelled_folder):
    work = workplace(labelled_folder, "embedding")
    texts = [pair for batch in load_pairs(work.pairs_file) for pair in batch]
    rows = embedding_rows(texts, work)
    assert len(texts) == 80
    assert sorted(np.concatenate([batch["texts"][batch["texts"] >= 0] for batch in rows]).tolist()) == list(range(80))
    assert sum(count_useful(batch) for batch in rows) == useful_tokens(texts)
    assert len({batch["tokens"].shape for batch in rows}) == 1


@pytest.mark.parametrize(
    "flag",
    [
        "--texts=0",
        "--init=hf:x",
        "--preset=bert-bas",
        "--rounds=0",
        "--peer=nobody",
        "--sequence_lengths=x",
        "--generation_batches=0",
        "--tasks=a",
        "--tasks=embedding",
    ],
)
def test_wrong_flags_are_refused(flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["vit-b16", flag])
    assert f"{flag}: expected" in capsys.readouterr().err


def test_a_missing_peer_says_what_to_type(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    with pytest.raises(UserError, match=r"(torch|transformers) missing.*pip install -e '\.\[parity\]'.*--peer=none"):
        benchmark.main([])


def test_a_process_that_fails_shows_its_last_lines(tmp_path):
    work = Workplace(str(tmp_path), "training", LENGTH)  # an empty folder
    with started([MODES["ours-float32"]], work, 1) as workers, pytest.raises(WorkerError, match="FileNotFoundError"):
        workers[0].ask("prepare")


@pytest.mark.slow
def test_ours_alone_end_to_end(tmp_path):
    text, output = write_text(tmp_path / "text.txt"), tmp_path / "figures.json"
    flags = {
        "preset": "bert-tiny",
        "peer": "none",
        "modes": "ours-float32",
        "sequence_lengths": LENGTH,
        "batch_size": POSITIONS,
        "tasks": "training",
        "rounds": 2,
        "data": f"text:{text}",
        "text_folder": tmp_path / "texts",
        "output": output,
    }
    assert benchmark.main([f"--{name}={value}" for name, value in flags.items()]) == 0
    [cell] = json.loads(output.read_text())["cells"]
    [entry] = cell["entries"]
    assert (entry["mode"], entry["batching"]) == ("ours-float32", "packed")
    assert len(entry["useful_tokens_per_second"]) == 2
    assert entry["ratios"] == [1.0, 1.0]
    assert min(entry["useful_tokens_per_second"]) > 0
    assert cell["peak_bytes"]["ours-float32"] > 10**8


@pytest.mark.parametrize("task", [*TASKS, *IMAGES, GENERATION])
def test_with_equal_weights_both_sides_compute_the_same(place_of, task):
    pytest.importorskip("transformers")

    work = workplace(place_of(task), task)
    reference = open_side(MODES["eager-float32"], work).check()
    for name in ("ours-float32", "ours-bfloat16"):
        found = open_side(MODES[name], work).check()
        assert report.relative_difference(found, reference) <= report.TOLERANCES[MODES[name].dtype]
    assert report.relative_difference([1.001 * value for value in reference], reference) > report.TOLERANCES["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["training", "finetuning", "image training"])
def test_a_step_of_either_side_changes_the_loss_alike(place_of, task: Task):
    pytest.importorskip("transformers")

    work = StillWorkplace(place_of(task), task, LENGTH)
    side, peer = open_side(MODES["ours-float32"], work), open_side(MODES["eager-float32"], work)
    before = [*side.check(), *peer.check()]
    side.run(side.rows[0])
    peer.run(next(iter(peer.batches().values()))[0])
    ours, theirs = (after - start for after, start in zip([*side.check(), *peer.check()], before, strict=True))
    assert theirs < -1e-2
    assert ours == pytest.approx(theirs, rel=1e-2)
