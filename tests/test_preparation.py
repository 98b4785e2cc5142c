"""Preparing a text once: the same bytes whoever does it and however often it is killed, and what one can type wrong."""

import dataclasses
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bert_jax.config import PRESETS
from bert_jax.corpus import open_corpus
from bert_jax.corpus_shards import is_held_out
from bert_jax.preparation import Preparation, prepare, vocabulary_documents
from bert_jax.prepared_text import given_tokenizer
from core_jax.sources import read_documents, source_slices
from experiments import prepare as command
from experiments import pretrain
from tests.test_bad_input import message
from tests.tiny_run import flags, write_text

FLAGS = ["--vocab_size=120", "--held_out=0.2", "--slice_bytes=2000"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> pathlib.Path:
    file = write_text(tmp_path_factory.mktemp("text") / "text.txt")
    documents = file.read_text().split("\n\n")
    file.write_text("\n\n".join(documents + documents[5:15] + documents[:3]))
    return file


@pytest.fixture(scope="module")
def prepared(text, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prepared") / "corpus"
    assert command.main([f"--data=text:{text}", f"--output={folder}", "--workers=1", *FLAGS]) == 0
    return folder


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def config(text: pathlib.Path, **changes) -> Preparation:
    return Preparation(
        **{"data": f"text:{text}", "vocab_size": 120, "held_out": 0.2, "slice_bytes": 2000, "workers": 1} | changes
    )


def test_several_processes_write_the_same_bytes(text, prepared, tmp_path):
    prepare(config(text, workers=2), str(tmp_path), lambda state: None)
    assert files(tmp_path / "corpus") == files(prepared / "corpus")
    assert files(tmp_path / "tokenizer") == files(prepared / "tokenizer")
    assert len(os.listdir(tmp_path / "corpus" / "shards")) > 5


def test_another_cut_gives_the_same_documents(text, prepared, tmp_path):
    prepare(config(text, slice_bytes=700), str(tmp_path), lambda state: None)
    for split in ("train", "held_out"):
        ours, theirs = (open_corpus(folder / "corpus", split) for folder in (tmp_path, prepared))
        assert ours.summary == theirs.summary
        assert ours.summary.duplicates == 13
        assert [ours.tokens(i).tolist() for i in range(len(ours))] == [
            theirs.tokens(i).tolist() for i in range(len(theirs))
        ]


def test_beam_writes_the_same_bytes(text, prepared, tmp_path, monkeypatch, recwarn):
    pytest.importorskip("apache_beam")  # an extra of its own; CI brings it, too
    monkeypatch.setattr(sys, "argv", ["prepare"])
    prepare(config(text, beam_runner="DirectRunner"), str(tmp_path), lambda state: None)
    assert files(tmp_path / "corpus") == files(prepared / "corpus")


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(text, prepared, tmp_path):
    arguments = [f"--data=text:{text}", f"--output={tmp_path / 'out'}", "--workers=2", *FLAGS]
    start = [sys.executable, "-m", "experiments.prepare", *arguments]
    shards, kills = tmp_path / "out" / "corpus" / "shards", 0
    for wanted in (1, 4, 8):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(shards.glob("[0-9]*"))) < wanted:
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= 1
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    assert files(tmp_path / "out" / "corpus") == files(prepared / "corpus")


MEMORY = """
import resource, sys
from bert_jax.preparation import Preparation, prepare
prepare(Preparation(data="text:" + sys.argv[1], vocab_size=2000, workers=2, slice_bytes=2_000_000,
        vocabulary_bytes=2_000_000), sys.argv[2], lambda state: None)
print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgkl" for b in "aeiou" for c in "mnprst"])

    def peak(megabytes):
        file = tmp_path / f"{megabytes}.txt"
        with file.open("w") as stream:
            while stream.tell() < megabytes * 1e6:
                lines = [" ".join(words[rng.integers(len(words), size=12)]) + "." for _ in range(20)]
                stream.write("\n".join(lines) + "\n\n")
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, file, folder], check=True, capture_output=True, text=True, cwd=os.getcwd()
        )
        return max(map(int, done.stdout.split())) / 1e3  # MB

    small, large = peak(6), peak(60)
    assert large < small + 20


def test_the_vocabulary_is_trained_on_no_more_text_than_asked_for(text, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text("\n\n".join(f"w{number} x{i} y{i * i}." for i in range(3000)))
    slices = source_slices(f"text:{tmp_path}/*.txt", slice_bytes=3000.0)
    every = [document for part in slices for document in part]
    training = [document for document in every if not is_held_out(document, 0.2)]
    assert list(vocabulary_documents(slices, 0.2, 10**9)) == training
    total = sum(map(len, every))
    for limit in (total // 3, total // 100):
        chosen = list(vocabulary_documents(slices, 0.2, limit))
        assert set(chosen) < set(training)
        assert abs(sum(map(len, chosen)) - 0.8 * limit) < 0.35 * limit


@pytest.mark.slow
def test_a_run_from_a_prepared_text_is_a_run_from_the_text(text, prepared, tmp_path):
    before = files(prepared)
    arguments = (
        flags(tmp_path / "a", text, steps=2),
        flags(tmp_path / "b", text, steps=2, data=f"arrayrecord:{prepared}"),
    )
    for folder in arguments:
        assert pretrain.main(folder) == 0
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("a", "b"))
    for name in ("loss", "mlm_loss", "nsp_accuracy", "unigram_loss", "train_examples", "vocab_size"):
        assert one[name] == other[name]
    assert files(tmp_path / "b" / "tokenizer") == files(prepared / "tokenizer")
    assert not (tmp_path / "b" / "corpus").exists()
    assert files(prepared) == before


def test_the_report_counts(text, prepared, capsys):
    report = json.loads((prepared / "report.json").read_text())
    distinct = set(read_documents(f"text:{text}"))
    assert report["documents"] == len(distinct) == 120
    assert report["held_out_documents"] == sum(is_held_out(document, 0.2) for document in distinct)
    assert report["sentences"] == sum(len(document.splitlines()) for document in distinct)
    assert report["exact_duplicates"] == 13
    train = open_corpus(prepared / "corpus", "train")
    lengths = sorted(len(train.tokens(i)) for i in range(len(train)))
    assert lengths[-1] <= report["document_lengths"]["1"]
    assert 0 < report["padding_share"]["128"]["packed"] < report["padding_share"]["128"]["unpacked"] < 1
    assert report["reading_tokens_per_second"] > 0
    assert (prepared / "document_lengths.png").read_bytes().startswith(b"\x89PNG")
    assert command.main([f"--data=text:{text}", f"--output={prepared}", *FLAGS]) == 0  # prepared already
    told = " ".join(capsys.readouterr().out.split())
    assert "documents" in told
    assert f"--data=arrayrecord:{prepared}" in told


def test_its_vocabulary_is_known_before_training(prepared):
    preset = PRESETS["bert-base"]
    asked = dataclasses.replace(preset, text=dataclasses.replace(preset.text, data=f"arrayrecord:{prepared}"))
    tokenizer = given_tokenizer(asked)
    assert tokenizer is not None
    assert tokenizer.vocab_size == 120
    assert given_tokenizer(preset) is None


def test_mistakes_of_preparing(text, prepared, tmp_path, monkeypatch, capsys):
    output = f"--output={tmp_path / 'out'}"
    for arguments, parts in (
        ([f"--data=text:{text}"], ["--output=DIR"]),
        ([f"--data=text:{text}", "--output=gs://bucket/corpus"], ["local folder"]),
        (["--data=text:/nowhere/*.txt", output], ["/nowhere/*.txt"]),
        ([f"--data=arrayrecord:{prepared}", output], ["is tokenised", "experiments.pretrain"]),
        ([f"--data=text:{text}", output, "--held_out=1"], ["--held_out=1"]),
        ([f"--data=text:{text}", output, "--tokenizer=/nowhere/vocab.txt"], ["/nowhere/vocab.txt"]),
        (
            [f"--data=text:{text}", f"--output={prepared}", "--held_out=0.3"],
            ["--vocab_size: 120 there, 30522 now", "0.3"],
        ),
    ):
        told = message(command.main, arguments, monkeypatch, capsys)
        assert all(part in told for part in parts), told
    assert not (tmp_path / "out").exists()


def test_mistakes_of_using_it(text, prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "half" / "corpus").mkdir(parents=True)
    for changes, parts in (
        ({"data": "arrayrecord:/nowhere"}, ["no prepared text in /nowhere", "--output=/nowhere"]),
        ({"data": f"arrayrecord:{tmp_path}/half"}, ["not complete", f"--output={tmp_path}/half"]),
        ({"data": f"arrayrecord:{prepared}", "tokenizer": str(prepared / "tokenizer")}, ["brings its own"]),
        ({"data": f"arrayrecord:{prepared}", "mesh": "tensor:7"}, ["7"]),
    ):
        told = message(pretrain.main, flags(tmp_path / "run", text, **changes), monkeypatch, capsys)
        assert all(part in told for part in parts), told


def test_a_damaged_shard_is_named_and_made_anew(text, prepared, tmp_path, monkeypatch, capsys):
    arguments = [f"--data=text:{text}", f"--output={tmp_path / 'out'}", "--workers=1", *FLAGS]
    assert command.main(arguments) == 0
    before = files(tmp_path / "out" / "corpus")
    for name in ("index.npz", "documents.array_record"):
        damaged = tmp_path / "out" / "corpus" / "shards" / "00000003"
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[: len(content) // 2])
        (tmp_path / "out" / "corpus" / "corpus.json").unlink()  # as if killed before the end
        (tmp_path / "out" / "report.json").unlink()
        told = message(command.main, arguments, monkeypatch, capsys)
        assert f"rm -r {damaged}" in told
        for path in damaged.iterdir():
            path.unlink()
        damaged.rmdir()
        assert command.main(arguments) == 0
        assert files(tmp_path / "out" / "corpus") == before


def test_tokenizers_are_sent_to_processes_whole(prepared):
    from bert_jax.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(prepared / "tokenizer")
    texts = ["w1 [MASK] w2 [SEP]", "w50 unheard"]
    assert pickle.loads(pickle.dumps(tokenizer)).encode(texts) == tokenizer.encode(texts)
