"""Records to ids: pairs are cut as the peers cut them, no word or answer is lost, and mistakes are named."""

import numpy as np
import pytest
import tokenizers

from bert_jax.answers import Answers, Span, best_span, score_answers
from bert_jax.labelled_rows import IGNORED
from bert_jax.labelled_texts import class_names, encode_examples, join_pair
from core_jax.errors import UserError
from tests.labelled_words import CLASSES, LENGTH, TAGS, WORDS, columns, examples, records, tokenizer


def test_pairs_are_cut_as_by_the_peer():
    ours, random = tokenizer(), np.random.default_rng(0)
    peer = tokenizers.Tokenizer.from_buffer(ours._serialized())
    peer.enable_truncation(max_length=LENGTH, strategy="longest_first")
    for _ in range(200):
        first, second = (" ".join(random.choice(WORDS, random.integers(1, 30))) for _ in range(2))
        (a,), (b,) = ours.encode([first]), ours.encode([second])
        ids, length, _ = join_pair(ours, a, b, LENGTH)
        expected = peer.encode(first, second)
        assert ids.tolist() == expected.ids
        assert length == expected.type_ids.index(1)
        ids, length, cut = join_pair(ours, a, None, LENGTH)
        assert ids.tolist() == peer.encode(first).ids
        assert (length, cut) == (len(ids), len(a) > LENGTH - 2)


def test_no_word_is_lost():
    found = examples("token")
    tags = [[] for _ in found.records]
    for text, example in enumerate(found.texts.examples):
        labels = found.texts.labels[text]
        tags[example] += [TAGS[label] for label in labels if label != IGNORED]
        np.testing.assert_array_equal(np.flatnonzero(labels != IGNORED), found.words[text])
    assert tags == [record["label"] for record in found.records]
    long = [{"text": ["w1s"] * 40, "label": ["O"] * 40}]
    split = encode_examples(
        long, tokenizer(), head="token", columns=columns("token"), classes=TAGS, sequence_length=LENGTH
    )
    assert [len(words) for words in split.words] == [15, 15, 10]


def test_windows_cover_the_context_and_hold_every_answer():
    found = examples("span", 60)
    data, held = found.texts, set()
    for text, (example, window) in enumerate(zip(data.examples.tolist(), found.windows, strict=True)):
        record, (first, last) = found.records[example], data.labels[text]
        assert len(data.tokens[text]) <= LENGTH
        assert len(window.places) == len(data.tokens[text]) - window.start - 1
        if first:
            places = window.places[first - window.start][0], window.places[last - window.start][1]
            answer = record["label"]["text"][0]
            assert record["text"][slice(*places)] == answer
            held.add(example)
    assert held == {number for number, record in enumerate(found.records) if record["label"]["text"]}
    for example, record in enumerate(found.records):
        seen = {
            place
            for text, window in enumerate(found.windows)
            if data.examples[text] == example
            for place in window.places
        }
        assert len(seen) == len(tokenizer().encode([record["text"]])[0])


def test_the_best_span_is_found_by_trying_all():
    random, found = np.random.default_rng(0), examples("span", 8)
    for text, window in enumerate(found.windows):
        logits = random.normal(size=(2, len(found.texts.tokens[text]))).astype(np.float32)
        context = found.records[found.texts.examples[text]]["text"]
        span = best_span([(logits, window)], context)
        places = range(len(window.places))
        value, i, j = max(
            (logits[0, window.start + i] + logits[1, window.start + j], i, j) for i in places for j in places if i <= j
        )
        assert span.text == context[window.places[i][0] : window.places[j][1]]
        assert span.score == pytest.approx(value)
        assert span.no_answer_score == pytest.approx(logits[:, 0].sum())


@pytest.mark.parametrize(("may_be_empty", "f1"), [(True, 0), (False, 1), (None, 1)])
def test_what_was_learnt_decides_whether_there_may_be_no_answer(may_be_empty, f1):
    question = {"text": "w1 w2", "second": "w3", "label": {"text": ["w2"], "answer_start": [3]}}
    found = encode_examples(
        [question], tokenizer(), head="span", columns=columns("span"), classes=[], sequence_length=LENGTH
    )
    unsure = Answers(0.0, [Span("w2", score=1.0, no_answer_score=2.0)])
    assert score_answers(unsure, found, columns("span"), [], may_be_empty=may_be_empty)["f1"] == f1


@pytest.mark.parametrize(
    "label",
    [
        [{"text": "w2", "answer_start": 3}, {"text": "w1", "answer_start": 0}],
        {"text": "w2", "answer_start": 3},
        {"text": ["w2"], "answer_start": [3]},
    ],
)
def test_answers_are_understood_however_they_are_listed(label):
    question = {"text": "w1 w2", "second": "w3", "label": label}
    found = encode_examples(
        [question, question | {"label": []}], tokenizer(), head="span", columns=columns("span"), classes=[],
        sequence_length=LENGTH,
    )  # fmt: skip
    assert found.texts.labels == [(4, 4), (0, 0)]
    assert found.records[0]["label"]["text"][0] == "w2"
    assert found.records[1]["label"] == {"text": [], "answer_start": []}


def test_words_and_tags_in_one_text_are_cut_at_white_space():
    (record,) = records("token", 1)
    joined = {"text": " ".join(record["text"]), "label": "  ".join(record["label"])}
    assert class_names([joined], "token", "label") == class_names([record], "token", "label")
    ours, expected = (
        encode_examples(
            [each], tokenizer(), head="token", columns=columns("token"), classes=TAGS, sequence_length=LENGTH
        )
        for each in (joined, record)
    )
    np.testing.assert_array_equal(ours.texts.labels[0], expected.texts.labels[0])
    assert ours.records[0]["text"] == record["text"]


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        ("classification", "", "example 2: the label in column 'label' is empty; expected the name of a class"),
        ("classification", "  ", "example 2: the label in column 'label' is empty"),
        ("token", ["O", ""], "example 2: the label in column 'label' is empty"),
        ("token", 0.5, "example 2: column 'label' holds 0.5; expected a list, or words with blanks between"),
        ("token", ["O", None], "example 2: column 'label' holds None in its list"),
    ],
)
def test_labels_that_name_no_class(head, label, message):
    good = {"label": "high" if head == "classification" else ["O"]}
    with pytest.raises(UserError, match=message):
        class_names([good, {"label": label}], head, "label")


@pytest.mark.parametrize("labels", [["\u2460", "\u2461"], ["--1", "2"], ["1", "-"]])
def test_names_that_look_like_numbers(labels):
    assert class_names([{"label": label} for label in labels], "classification", "label") == sorted(labels)


def test_class_names_are_in_order():
    numbers = [{"label": value} for value in (10, 9, 2.0, -1)]
    assert class_names(numbers, "classification", "label") == ["-1", "2", "9", "10"]
    assert class_names(records("token"), "token", "label") == ["B-x", "I-x", "O"]


@pytest.mark.parametrize(
    ("head", "record", "message"),
    [
        (
            "classification",
            {"text": "w1", "second": "w2", "label": "huge"},
            "label 'huge'.*expected one of low, middle",
        ),
        ("regression", {"text": "w1", "second": "w2", "label": "much"}, "'much'.*expected a number"),
        ("regression", {"text": "w1", "second": "w2", "label": float("nan")}, "expected a number"),
        ("token", {"text": ["w1", "w2"], "label": ["O"]}, "2 words and 1 tags"),
        ("token", {"text": ["w1"], "label": ["B-y"]}, "B-y.*expected one of O, B-x"),
        ("token", {"text": "w1 w2", "label": "O"}, "2 words and 1 tags"),
        ("token", {"text": 7, "label": ["O"]}, "column 'text' holds 7; expected a list"),
        (
            "classification",
            {"text": None, "second": "w2", "label": "low"},
            "column 'text' holds nothing .null.; expected text",
        ),
        ("regression", {"text": "w1", "second": ["w2"], "label": 1}, r"column 'second' holds \['w2'\]; expected text"),
        ("choice", {"text": "w1", "a": "w2", "b": "w3", "label": 2}, "label '2'.*from 0 to 1"),
        ("choice", {"text": "w1", "a": "w2", "b": "w3", "label": "\u2460"}, "label '\u2460'.*from 0 to 1"),
        (
            "span",
            {"text": "w1 w2", "second": "w3", "label": {"text": ["w2"], "answer_start": [1]}},
            "answer 'w2' does not stand at character 1.*'1 '",
        ),
        *(
            ("span", {"text": "w1 w2", "second": "w3", "label": label}, r"column 'label' holds .*answer_start")
            for label in (
                "w2",
                None,
                ["w2"],
                {"text": ["w2"]},
                {"text": ["w2"], "answer_start": []},
                {"text": ["w2"], "answer_start": ["x"]},
                {"text": ["w2"], "answer_start": [3.5]},
                {"text": [None], "answer_start": [0]},
                [{"text": "w2"}],
            )
        ),
        (
            "span",
            {"text": "w1 w2", "second": "w3", "label": {"text": "w2", "answer_start": -2}},
            "answer 'w2' does not stand at character -2",
        ),
    ],
)
def test_mistakes_in_labels(head, record, message):
    classes = {"classification": CLASSES, "token": TAGS}.get(head, [])
    with pytest.raises(UserError, match=f"example 1.*{message}"):
        encode_examples(
            [record], tokenizer(), head=head, columns=columns(head), classes=classes, sequence_length=LENGTH
        )
