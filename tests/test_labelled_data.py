import csv
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from core_jax.errors import UserError
from core_jax.labelled_data import check_records, class_names, read_records
from tests.small_datasets import OwnDataset, write_rows

ANSWERS = [{"text": "blue", "answer_start": 11}, {"text": "is blue", "answer_start": 8}]
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Sky",
            "paragraphs": [
                {
                    "context": "The sky is blue.",
                    "qas": [
                        {"id": "a", "question": "What colour?", "answers": ANSWERS, "is_impossible": False},
                        {"id": "b", "question": "Which taste?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        },
        # of version 1.1, which does not say whether there is an answer
        {"paragraphs": [{"context": "Öl.", "qas": [{"id": "c", "question": "?", "answers": []}]}]},
    ],
}


def test_json_lines(tmp_path):
    rows = [{"text": "One.", "label": 3}, {"text": "zwei \ud800", "label": ["a", 0.5], "more": None}]
    (tmp_path / "b.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "a.jsonl").write_text('{"label": true, "text": "\u2028"}')
    found = read_records(f"jsonl:{tmp_path}/*.jsonl", ["text", "label"], split="validation")  # files are one split
    assert found == [
        {"text": "\u2028", "label": True},
        {"text": "One.", "label": 3},
        {"text": "zwei ?", "label": ["a", 0.5]},
    ]


def test_tables_are_as_python_writes_them(tmp_path):
    texts = ["plain", 'with "marks"', "a, b", "two\nlines\r\nor three", "", "x" * 200_000, "Zürich"]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "text"], *([str(number), text] for number, text in enumerate(texts))])
    assert read_records(f"csv:{tmp_path}/a.csv", ["text"]) == [{"text": text} for text in texts]
    expected = [{"text": text, "label": str(number)} for number, text in enumerate(texts)]
    assert read_records(f"csv:{tmp_path}/a.csv", ["text", "label"]) == expected


def test_tabs_need_no_quotation_marks(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b'sentence\tlabel\r\n"He said, so.\t1\r\n\r\n\'s " \t0')
    found = read_records(f"tsv:{tmp_path}/a.tsv", ["label", "sentence"])
    assert found == [{"label": "1", "sentence": '"He said, so.'}, {"label": "0", "sentence": "'s \" "}]


def test_records_of_files_know_their_place(tmp_path):
    files = {
        "a.jsonl": ('\n{"a": 1}\n\n{"a": 2}\n', ["a"], [2, 4]),
        "a.csv": ('a\n"two\nlines"\nb\n', ["a"], [2, 4]),
        "a.conll": ("\nx O\ny O\n\nz O\n", ["tokens", "tags"], [2, 5]),
    }
    for name, (content, columns, numbers) in files.items():
        (tmp_path / name).write_text(content)
        found = read_records(f"{name[2:]}:{tmp_path}/{name}", columns)
        assert [getattr(record, "place", "") for record in found] == [f"{tmp_path}/{name}:{n}" for n in numbers]
    (tmp_path / "dev.json").write_text(json.dumps(SQUAD))
    places = [getattr(record, "place", "") for record in read_records(f"squad:{tmp_path}/dev.json", ["question"])]
    assert places == [
        f"{tmp_path}/dev.json, question {number} of article {n}" for n, number in ((1, 1), (1, 2), (2, 1))
    ]


def test_tagged_words(tmp_path):
    lines = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n rejects  VBZ\tO\r\n\n \nÀ\u00a0b\tO\n\n-DOCSTART- O\n# O\n"
    (tmp_path / "a.conll").write_text(lines.replace("VBZ\tO", "VBZ O"))
    records = read_records(f"conll:{tmp_path}/a.conll", ["tokens", "tags"])
    assert records == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["À\u00a0b"], "tags": ["O"]},
        {"tokens": ["#"], "tags": ["O"]},
    ]
    (tmp_path / "bare.conll").write_text("only\nwords")
    assert read_records(f"conll:{tmp_path}/bare.conll", ["tokens"]) == [{"tokens": ["only", "words"]}]


def test_questions(tmp_path):
    (tmp_path / "dev.json").write_text(json.dumps(SQUAD))
    records = read_records(f"squad:{tmp_path}/dev.json", ["id", "context", "answers"])
    nothing = {"text": [], "answer_start": []}
    sky = "The sky is blue."
    assert records == [
        {"id": "a", "context": sky, "answers": {"text": ["blue", "is blue"], "answer_start": [11, 8]}},
        {"id": "b", "context": sky, "answers": nothing},
        {"id": "c", "context": "Öl.", "answers": nothing},
    ]
    asked = read_records(f"squad:{tmp_path}/dev.json", ["question"])
    assert [record["question"] for record in asked] == ["What colour?", "Which taste?", "?"]


def test_sample(tmp_path):
    check_records("sample", ["text", "topic"], data_dir=str(tmp_path))
    assert not list(tmp_path.rglob("*.array_record*"))
    records = read_records("sample", ["text", "title", "description", "topic"], data_dir=str(tmp_path))
    assert len(records) == 10_033
    assert all(type(value) is str for value in records[0].values())
    assert len({record["topic"] for record in records}) == 12
    assert class_names("sample", "topic", data_dir=str(tmp_path)) == ()
    part = read_records("sample", ["title"], split="train[10:12]", data_dir=str(tmp_path))
    assert part == [{"title": record["title"]} for record in records[10:12]]
    for function in (check_records, read_records):
        with pytest.raises(UserError, match=r"no split 'test'.*train"):
            function("sample", ["text"], split="test", data_dir=str(tmp_path))
        with pytest.raises(UserError, match=r"no column 'topics'.*'title', 'text'.*Did you mean 'topic'"):
            function("sample", ["text", "topics"], data_dir=str(tmp_path))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A dataset with columns of every kind that tasks have."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    tags = tfds.features.ClassLabel(names=["O", "B-X", "I-X"])
    features = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["no", "yes"]),
        "score": np.float32,
        "sure": np.bool_,
        "tokens": tfds.features.Sequence(tfds.features.Text()),
        "tags": tfds.features.Sequence(tags),
        "answers": tfds.features.Sequence({"text": tfds.features.Text(), "kind": tags}),
    }
    rows = [
        {
            "text": "Grüße",
            "label": "yes",
            "score": 0.5,
            "sure": True,
            "tokens": ["a", "ö"],
            "tags": ["O", "B-X"],
            "answers": {"text": ["ü"], "kind": ["I-X"]},
        },
        {
            "text": b"\xff",
            "label": -1,
            "score": 2.0,
            "sure": False,
            "tokens": [],
            "tags": [],
            "answers": {"text": [], "kind": []},
        },
    ]
    builder = OwnDataset(features, data_dir=folder, file_format="array_record")
    write_rows(builder, {"train": rows[:1], "unlabelled": rows[1:]})
    return folder


def test_dataset(data_dir):
    columns = ["tags", "text", "label", "score", "sure", "tokens", "answers"]
    check_records("tfds:own_dataset", columns, data_dir=data_dir)
    assert read_records("tfds:own_dataset", columns, data_dir=data_dir) == [
        {
            "tags": ["O", "B-X"],
            "text": "Grüße",
            "label": "yes",
            "score": 0.5,
            "sure": True,
            "tokens": ["a", "ö"],
            "answers": {"text": ["ü"], "kind": ["I-X"]},
        }
    ]
    (record,) = read_records("tfds:own_dataset", ["label"], data_dir=data_dir)
    assert getattr(record, "place", "") == "example 0 of train of tfds:own_dataset"
    unlabelled = read_records("tfds:own_dataset", ["score", "tags", "answers"], split="unlabelled", data_dir=data_dir)
    assert unlabelled == [{"score": 2.0, "tags": [], "answers": {"text": [], "kind": []}}]


def test_order_of_classes_is_the_dataset_s(data_dir):
    assert class_names("tfds:own_dataset", "label", data_dir=data_dir) == ("no", "yes")
    assert class_names("tfds:own_dataset", "tags", data_dir=data_dir) == ("O", "B-X", "I-X")
    for column in ("text", "score", "tokens", "answers"):
        assert class_names("tfds:own_dataset", column, data_dir=data_dir) == ()
    assert class_names("jsonl:nowhere.jsonl", "label") == ()
    with pytest.raises(UserError, match=r"no column 'labels'.*Did you mean 'label'"):
        class_names("tfds:own_dataset", "labels", data_dir=data_dir)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ((["label"], "unlabelled"), ["example 0 of unlabelled", "no label", "holds -1", "--validation_split"]),
        ((["text"], "unlabelled"), ["example 0 of unlabelled", "'text'", "not UTF-8"]),
        ((["text"], "train[:0]"), ["split 'train[:0]' of tfds:own_dataset", "no examples"]),
        ((["text"], "test"), ["no split 'test'", "train, unlabelled"]),
        ((["body"], "train"), ["no column 'body'", "'answers'", "'label'"]),
    ],
)
def test_mistakes_about_a_dataset(data_dir, arguments, messages):
    columns, split = arguments
    with pytest.raises(UserError) as caught:
        read_records("tfds:own_dataset", columns, split=split, data_dir=data_dir)
    assert all(message in str(caught.value) for message in messages)
    if split != "unlabelled":  # what each example holds shows only when it is read
        with pytest.raises(UserError) as early:
            check_records("tfds:own_dataset", columns, split=split, data_dir=data_dir)
        assert str(early.value) == str(caught.value)


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        ("jsnl:a.jsonl", ["Did you mean jsonl:a.jsonl?", "conll:FILES"]),
        ("reviews.csv", ["csv:reviews.csv"]),
        ("train-v1.1.json", ["squad:train-v1.1.json"]),
        ("text:a.txt", ["without labels"]),
        ("glue/sst2", ["tfds:glue/sst2"]),
        ("csv:", ["csv:FILES"]),
        ("sample:x", ["Type: sample"]),
        ("csv:nowhere/*.csv", ["no file matches"]),
        ("tfds:imdb_reviews", ["not prepared", "tfds build imdb_reviews --file_format=array_record"]),
    ],
)
def test_mistakes_are_named_early(data, messages, tmp_path):
    for function in (check_records, read_records):
        with pytest.raises(UserError) as caught:
            function(data, ["text"], data_dir=str(tmp_path))
        assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize(
    ("scheme", "content", "messages"),
    [
        ("jsonl", '\n{"text": ', ["a.data:2", "not JSON", '{"text": "...", "label": "..."}']),
        ("jsonl", '["text"]', ["a.data:1", "expected an object"]),
        ("jsonl", '{"text": "", "labels": 1}', ["a.data:1", "no column 'label'", "'text', 'labels'", "--label_column"]),
        ("jsonl", '{"text": "", "label": null}', ["a.data:1", "'label' is null"]),
        ("jsonl", "\n\n", ["no examples"]),
        ("csv", "text,labels\na,1", ["line 1,", "no column 'label'", "'text', 'labels'", "Did you mean 'labels'"]),
        ("csv", "text,label,text\na,1,b", ["line 1", "'text' twice"]),
        ("csv", 'text,label\n"a\nb",1\nc', ["a.data:4", "1 columns", "names 2"]),
        ("csv", 'text,label\na,1\n"never closed,0\nb,1', ["starts on line 3"]),
        ("csv", "text,label\n", ["no examples"]),
        ("csv", "", ["no examples"]),
        ("csv", b"text,label\nna\xefve,1", ["line 2, byte offset 13", "iconv"]),
        ("tsv", "text\tlabel\na\tb\tc", ["a.data:2", "3 columns"]),
        ("conll", "a O\nb\n", ["a.data:2", "no tag in 'b'"]),
        ("conll", "a\t\n", ["a.data:1", "no tag"]),
        ("conll", "-DOCSTART- O\n\n", ["no examples"]),
        ("squad", '{"data": [\n', ["a.data:2", "not JSON"]),
        ("squad", '[{"context": ""}]', ["not a file of SQuAD"]),
        ("squad", '{"data": [{"paragraphs": [{"context": ""}]}]}', ["article 1", "no 'qas'"]),
        ("squad", '{"data": [1]}', ["article 1", "not as in SQuAD"]),
        ("squad", '{"data": []}', ["no examples"]),
    ],
)
def test_bad_files(tmp_path, scheme, content, messages):
    (tmp_path / "a.data").write_bytes(content.encode() if isinstance(content, str) else content)
    columns = {"conll": ["tokens", "tags"], "squad": ["question", "context", "answers"]}.get(scheme, ["text", "label"])
    with pytest.raises(UserError) as caught:
        read_records(f"{scheme}:{tmp_path}/a.data", columns)
    assert all(message in str(caught.value) for message in messages)


@pytest.mark.parametrize("scheme", ["conll", "squad"])
def test_formats_with_columns_of_their_own(tmp_path, scheme):
    (tmp_path / "a").write_text(json.dumps(SQUAD))
    with pytest.raises(UserError, match="no column 'text'"):
        check_records(f"{scheme}:{tmp_path}/a", ["text"])


def test_check_reads_the_beginning_of_every_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nnot read yet')
    check_records(f"jsonl:{tmp_path}/*.jsonl", ["text"])
    (tmp_path / "b.jsonl").write_text('{"body": "b"}\n')
    with pytest.raises(UserError, match=r"b.jsonl:1 has no column 'text'"):
        check_records(f"jsonl:{tmp_path}/*.jsonl", ["text"])
