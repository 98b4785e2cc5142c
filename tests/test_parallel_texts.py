"""Sentence pairs: each once an epoch, in few shapes; splits without leaks; baselines and scores that are known."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.parallel_texts import (
    BucketedBatches,
    EncodedPairs,
    Pairs,
    check_pairs,
    nearest_targets,
    read_pairs,
    vocabulary,
)
from bert_jax.translation_config import TINY, PairsConfig
from bert_jax.translation_scores import score_translations
from core_jax import parallel_samples
from core_jax.errors import UserError
from core_jax.parallel_samples import deal, dialogues, verses
from core_jax.sharding import parse_mesh
from tests.small_datasets import OwnDataset, write_rows

LONGEST, BATCH = 40, 8
DIALOGUES = """
dialogId("a-1", "font_small", "He said: \\"no\\".")
dialogStr("Er sagte:  \\"nein\\".")

dialogId("a-2", "font_big", "Untranslated.")
dialogStr("")
"""
ENGLISH = """$$$Genesis 1:0
<title>Of the beginning</title>
$$$Genesis 1:1
In <w lemma="x">the</w> beginning<note n="1">or: <i>start</i></note>, God<note>who</note>created.
$$$Genesis 1:2
Nobody translated this.
"""
SPANISH = "$$$Genesis 1:1\n<w>EN el principio</w> crió Dios.\n"


@pytest.fixture
def pairs():
    random = np.random.default_rng(0)
    sources, targets = ([[*range(4, 4 + size), 3] for size in random.integers(1, 39, 50)] for _ in range(2))
    for number, source in enumerate(sources):
        source[0] = 1000 + number  # says which one it is
    return EncodedPairs(sources, targets, 0)


def batches_of(pairs, seed=0):
    return BucketedBatches(pairs, TINY, LONGEST, BATCH, seed)


def numbers_of(batches):
    """Which pairs are in each batch, those that only fill up left out."""
    return [np.asarray(b["sources"])[np.asarray(b["weights"]["next"]).any(1), 0] - 1000 for b in batches]


def test_every_epoch_has_each_pair_once_in_an_order_of_its_own(pairs):
    found, mesh = batches_of(pairs), parse_mesh("data:2")
    steps = found.epoch_steps
    batches = list(found.training(mesh, 0, 2 * steps))
    epochs = [np.concatenate(numbers_of(batches[i * steps : (i + 1) * steps])).tolist() for i in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert {batch["sources"].shape for batch in batches} == {(BATCH, 16), (BATCH, 32), (BATCH, 40)}
    assert sorted(np.concatenate(numbers_of(found.evaluation(mesh)))) == list(range(50))
    later = numbers_of(found.training(mesh, steps + 1, steps + 3))  # as a run that goes on
    assert [x.tolist() for x in later] == [x.tolist() for x in numbers_of(batches[steps + 1 : steps + 3])]
    assert np.concatenate(numbers_of(batches_of(pairs, seed=1).training(mesh, 0, steps))).tolist() != epochs[0]


def test_a_row_is_a_pair(pairs):
    batch = next(batches_of(pairs).evaluation(parse_mesh("data:1")))
    number = int(batch["sources"][2, 0]) - 1000
    source, target = pairs.sources[number], pairs.targets[number]
    rows = {name: np.asarray(batch[name])[2].tolist() for name in batch if name != "weights"}
    assert rows["sources"] == source + [0] * (16 - len(source))
    assert rows["labels"] == target + [0] * (16 - len(target))
    assert rows["tokens"] == [2, *target[:-1]] + [0] * (16 - len(target))
    assert np.asarray(batch["weights"]["next"])[2].sum() == len(target) == sum(rows["segments"])


def test_pairs_are_read_and_held_out(tmp_path):
    lines = [json.dumps({"en": f"one {i}", "de": f" eins  {i}" if i else " "}) + "\n" for i in range(21)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    config = PairsConfig(data=f"jsonl:{tmp_path}/pairs.jsonl", source_column="en", target_column="de", held_out=0.2)
    check_pairs(config)
    sets = read_pairs(config, seed=0)
    assert (len(sets["train"]), len(sets["validation"])) == (16, 4)  # the first has no target
    both = [text for pairs in sets.values() for text in pairs.targets]
    assert sorted(both) == sorted(f"eins {i}" for i in range(1, 21))
    with pytest.raises(UserError, match="has no column 'fr'"):
        check_pairs(dataclasses.replace(config, target_column="fr"))
    with pytest.raises(UserError, match="both 'en'; expected one of each language"):
        check_pairs(dataclasses.replace(config, target_column="en"))
    with pytest.raises(UserError, match="--data=: expected sentence pairs"):
        check_pairs(PairsConfig())


def test_a_single_pair_is_too_few(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"en": "a", "de": "b"}\n')
    with pytest.raises(UserError, match="holds 1 pairs; 1 is held out"):
        read_pairs(PairsConfig(data=f"jsonl:{tmp_path}/one.jsonl", source_column="en", target_column="de"), 0)


def test_baseline_and_scores():
    train = Pairs(["a red house", "the blue sea", "a cat"], ["ein rotes Haus", "das blaue Meer", "eine Katze"])
    assert nearest_targets(train, ["The sea is blue", "red"]) == ["das blaue Meer", "ein rotes Haus"]
    same = score_translations(["das blaue Meer ist hier", "x"], ["das blaue Meer ist hier", "x"])
    assert (same.bleu, same.chrf) == (pytest.approx(100), pytest.approx(100))
    other = score_translations(["das rote Meer ist hier", "x"], ["das blaue Meer ist hier", "x"])
    assert 0 < other.bleu < 100
    assert 0 < other.chrf < 100
    assert "tok:13a" in same.bleu_signature
    assert "nc:6" in same.chrf_signature


def test_dialogues_and_verses_are_read(tmp_path, monkeypatch):
    (tmp_path / "level").mkdir()
    (tmp_path / "level" / "dialogs_de.lua").write_text(DIALOGUES)
    found = dialogues("de", tmp_path)
    assert [pair for part in found.values() for pair in part] == [
        {"source": 'He said: "no".', "target": 'Er sagte: "nein".'}
    ]
    with pytest.raises(UserError, match=r"no dialogues in 'fr' .*: expected one of de"):
        dialogues("fr", tmp_path)
    texts = dict(zip(parallel_samples.VERSES, (ENGLISH, SPANISH), strict=True))
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, texts[command[1]].encode())
    )
    pair = {"source": "In the beginning, God created.", "target": "EN el principio crió Dios."}
    assert [pair for part in verses().values() for pair in part] == [pair]
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, b""))
    with pytest.raises(UserError, match="install Debian's packages sword-text-web"):
        verses()


def test_no_chapter_and_no_source_is_in_two_splits():
    pairs = {(f"chapter {i // 10}", str(i)): {"source": f"text {i % 700}", "target": f"{i // 10}"} for i in range(1000)}
    splits = deal(pairs)
    for side in ("source", "target"):
        values = [{pair[side] for pair in part} for part in splits.values()]
        assert all(values)
        assert sum(map(len, values)) == len(set.union(*values))
    assert len(splits["train"]) > 800


def test_datasets_of_tfds_with_the_features_of_wmt(tmp_path):
    features = tfds.features.Translation(languages=("de", "en"))
    builder = OwnDataset(features, data_dir=tmp_path, file_format="array_record")
    rows = [{"de": f"Satz {n}", "en": f"sentence  {n}"} for n in range(6)]
    write_rows(builder, {"train": [*rows[:4], {"de": "", "en": "no translation"}], "validation": rows[4:]})
    place = str(tmp_path)
    config = PairsConfig(data="tfds:own_dataset", source_column="en", target_column="de", data_dir=place)
    check_pairs(config)
    found = read_pairs(config, seed=0)
    assert {name: len(pairs) for name, pairs in found.items()} == {"train": 4, "validation": 2}
    assert sorted(zip(found["train"].sources, found["train"].targets, strict=True)) == [
        (f"sentence {n}", f"Satz {n}") for n in range(4)
    ]
    with pytest.raises(UserError, match="no column 'fr'"):
        check_pairs(dataclasses.replace(config, target_column="fr"))


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "sentencepiece-t5"])
def test_rare_characters_of_a_small_alphabet_are_not_lost(tokenizer):
    common = [f"sentence {a}{b}{a}" for a in "abcdefghij" for b in "klmnopqrst"] * 20
    pairs = Pairs([*common, "rare (\u00fc) one"], [*common, "\u00a1seltsam!"])
    model = dataclasses.replace(TINY, vocab_size=160)
    made = vocabulary(PairsConfig(tokenizer=tokenizer), model, pairs)
    for text in (pairs.sources[-1], pairs.targets[-1]):
        ids = made.encode([text])[0]
        assert made.unknown_id not in ids
        assert made.decode(ids) == text
