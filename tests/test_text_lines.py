"""What predict is given: one record for each text, in order, and every mistake with its line."""

import io
import json

import pytest

from core_jax.errors import UserError
from experiments.text_lines import given_lines, given_records


def write(tmp_path, content):
    (tmp_path / "in").write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(tmp_path / "in")


def texts_of(tmp_path, content, columns=("text",)):
    return [record["text"] for record in given_records((), write(tmp_path, content), columns)]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('\ufeff{"text": "a"}\r\n\n{"text": "b", "more": null}\n\n', ["a", "b"]),
        ('\n\n {"text": "a"}\n', ["a"]),
        ("\ufeffa\n\n  b\r\n\n", ["a", "", "  b", ""]),  # as many as there are lines
        ("\n\na", ["", "", "a"]),
        ("\n\n", ["", ""]),
        ("a\n{sigh} a film\n{b}", ["a", "{sigh} a film", "{b}"]),
        ('a\n{"text": "b"}\n', ["a", "b"]),
        ('{"text": "\\ud800"}', ["?"]),  # half a character, which nothing can print
        ("", []),
    ],
)
def test_lines_and_records_are_in_step(tmp_path, monkeypatch, content, texts):
    assert texts_of(tmp_path, content) == texts
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="latin-1"))
    assert [record["text"] for record in given_records((), "-", ["text"])] == texts


def test_blank_lines_are_no_record_of_several_columns(tmp_path):
    assert texts_of(tmp_path, '\n{"text": "a", "second": "b"}\n\n', ["text", "second"]) == ["a"]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ('a\n{"text": ', ["text"], r'in:2 is not the JSON.*If it is plain text, write: \{"text": "\{\\"text\\": "\}'),
        ("{'text': 'a'}", ["text"], r"in:1 is not the JSON"),
        ('\n{"body": "a"}', ["text"], "in:2 lacks text; it has body"),
        ("{}", ["text"], "in:1 lacks text; it has nothing"),
        ("a", ["text", "second"], r'in:1: this model reads text, second; give JSON such as \{"text": "...", "second"'),
        (b"a\nna\xefve", ["text"], "in, line 2, .*not valid UTF-8.*iconv"),
    ],
)
def test_mistakes_name_the_line(tmp_path, content, columns, message):
    with pytest.raises(UserError, match=message):
        texts_of(tmp_path, content, columns)


def test_standard_input_is_utf_8(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"na\xefve")))
    with pytest.raises(UserError, match=r"standard input is not UTF-8: .*0xef.*iconv"):
        list(given_lines((), "-"))


def test_typed_texts_and_files_that_are_not_there():
    assert list(given_records(["", json.dumps({"text": "b"})], "", ["text"])) == [{"text": ""}, {"text": "b"}]
    with pytest.raises(UserError, match="--input=nowhere: no such file"):
        given_lines((), "nowhere")
