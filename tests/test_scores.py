import itertools
import json

import numpy as np
import pytest
import seqeval.metrics
from scipy import stats
from sklearn import metrics

from bert_jax.scores import (
    answer_scores,
    best_no_answer_threshold,
    entity_scores,
    entity_spans,
    normalised_answer,
    regression_scores,
)
from core_jax.class_scores import ZERO, classification_scores, per_class_scores


def exactly(scores):
    return pytest.approx(scores, rel=1e-12, abs=1e-12)


def test_classification_by_hand():
    labels, predictions = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 0, 1, 1])
    names = ["a", "b", "c", "never"]
    found = per_class_scores(labels, predictions, names)
    assert found == {
        "a": (0.75, 0.75, 0.75, 4),
        "b": (0.25, 0.5, exactly(1 / 3), 2),
        "c": (0, 0, 0, 2),
        "never": (0,) * 4,
    }
    scores = classification_scores(labels, predictions, names)
    # Of Matthews' correlation for several classes: right answers 4 of 8; given 4, 4, 0; wanted 4, 2, 2.
    matthews = (4 * 8 - (16 + 8)) / np.sqrt((64 - 32) * (64 - 24))
    means = {"precision": 1 / 3, "recall": 1.25 / 3, "f1": (0.75 + 1 / 3) / 3}
    each = {f"f1/{name}": row[2] for name, row in found.items()}
    assert scores == exactly({"accuracy": 0.5, "micro_f1": 0.5, "matthews": matthews} | means | each)


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("given", [1, None])
def test_classification_is_scikit_learns(classes, given):
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 300)
    predictions = np.where(random.random(300) < 0.4, labels, random.integers(0, given or classes, 300))
    names = [str(number) for number in range(classes)]
    scores = classification_scores(labels, predictions, names)
    report = metrics.classification_report(labels, predictions, output_dict=True, zero_division=ZERO)
    assert isinstance(report, dict)
    macro = report["macro avg"]
    assert scores["accuracy"] == scores["micro_f1"] == exactly(report["accuracy"])
    assert [scores[name] for name in ("precision", "recall", "f1")] == exactly(
        [macro[name] for name in ("precision", "recall", "f1-score")]
    )
    assert scores["matthews"] == exactly(metrics.matthews_corrcoef(labels, predictions))
    assert ("f1/0" in scores) == (classes < 11)  # they are few
    if classes < 11:
        assert [scores[f"f1/{name}"] for name in names] == exactly([report[name]["f1-score"] for name in names])
    if classes == 2:
        assert scores["matthews"] == exactly(np.corrcoef(labels, predictions)[0, 1])


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("prediction", [0, 1])
def test_one_class_only(label, prediction):
    scores = classification_scores(np.full(5, label), np.full(5, prediction), ["no", "yes"])
    right = float(label == prediction)
    assert scores["accuracy"] == scores["f1"] == scores["micro_f1"] == right
    assert scores["f1/yes"] == float(label == prediction == 1)
    assert scores["matthews"] == 0.0
    assert json.loads(json.dumps(scores)) == scores


def test_regression_by_hand():
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 4, 9, 16])
    pearson = np.corrcoef(labels, predictions)[0, 1]
    error = (0 + 4 + 36 + 144) / 4
    expected = {"pearson": pearson, "spearman": 1.0, "mean_squared_error": error}
    assert regression_scores(labels, predictions) == exactly(expected)
    assert regression_scores(labels, -labels)["spearman"] == exactly(-1)


def test_regression_with_ties_is_pearson_of_mean_ranks():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 6, 100), random.normal(size=100).astype(np.float32).round(1)
    ranks = stats.rankdata(labels), stats.rankdata(predictions)
    assert regression_scores(labels, predictions)["spearman"] == exactly(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize("constant", [np.full(4, 2.5), np.ones(4, np.float32)])
def test_regression_of_constants_is_no_correlation(constant):
    varied = np.arange(4.0)
    for pair in ((varied, constant), (constant, varied), (constant, constant)):
        scores = regression_scores(*pair)
        assert scores["pearson"] == scores["spearman"] == 0.0
        assert scores["mean_squared_error"] == np.mean((pair[0] - pair[1]) ** 2)
    assert regression_scores(varied[:1], varied[:1])["pearson"] == 0.0
    almost = np.array([1, 1, 1 + 1e-15, 1])
    assert abs(regression_scores(varied, almost)["pearson"]) <= 1
    # A model that diverged is not a poor one.
    assert all(map(np.isnan, regression_scores(varied, np.array([1, np.nan, 2, 3])).values()))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-A I-A O B-B", [("A", 0, 2), ("B", 3, 4)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("I-A I-A O I-A", [("A", 0, 2), ("A", 3, 4)]),  # IOB1
        ("I-A B-A I-B", [("A", 0, 1), ("A", 1, 2), ("B", 2, 3)]),
        ("S-A B-A E-A I-A O", [("A", 0, 1), ("A", 1, 3), ("A", 3, 4)]),  # IOBES, then a stray one
        ("B-A-B I-A-B I-A", [("A-B", 0, 2), ("A", 2, 3)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entity_spans(tags, spans):
    assert entity_spans(tags.split()) == spans


def test_entities_by_hand():
    gold = [["B-A", "I-A", "O", "B-B"], ["B-A", "O"], []]
    predicted = [["B-A", "I-A", "O", "B-A"], ["B-A", "I-A"], []]
    # Right is the first of two and of three; of the five words besides it "B-B" and the last are wrong.
    expected = {"accuracy": 4 / 6, "precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "macro_f1": (2 / 5 + 0) / 2}
    assert entity_scores(gold, predicted) == exactly(expected)
    assert set(entity_scores(gold, gold).values()) == {1.0}


@pytest.mark.parametrize("kinds", [("-PER", "-LOC", "-X-Y"), ("",)])  # none: the tags are B, I and so on alone
@pytest.mark.parametrize("prefixes", ["BI", "I", "BIES", "ES", "S"])
@pytest.mark.parametrize("seed", range(5))
def test_entities_are_seqevals(prefixes, kinds, seed):
    random = np.random.default_rng(seed)
    tags = ["O", *(f"{prefix}{kind}" for prefix in prefixes for kind in kinds)]
    gold, predicted = [], []
    for length in random.integers(0, 15, 60):
        gold.append(random.choice(tags, length).tolist())
        noise = random.choice(tags, length).tolist()
        predicted.append([a if random.random() < 0.7 else b for a, b in zip(gold[-1], noise, strict=True)])
    expected = {
        f"{prefix}{name}": score(gold, predicted, average=average, zero_division=ZERO)
        for prefix, average in (("", "micro"), ("macro_", "macro"))
        for name, score in (
            ("precision", seqeval.metrics.precision_score),
            ("recall", seqeval.metrics.recall_score),
            ("f1", seqeval.metrics.f1_score),
        )
    }
    expected["accuracy"] = seqeval.metrics.accuracy_score(gold, predicted)
    scores = entity_scores(gold, predicted)
    assert scores == exactly({name: expected[name] for name in scores})
    assert 0 < scores["f1"] < 1


def test_no_entity_at_all():
    nothing, something = [["O", "O"], ["O"]], [["O", "B-A"], ["O"]]
    zeros = dict.fromkeys(("precision", "recall", "f1", "macro_f1"), 0.0)
    assert entity_scores(nothing, nothing) == {"accuracy": 1.0} | zeros
    assert entity_scores(nothing, something) == exactly({"accuracy": 2 / 3} | zeros)
    assert entity_scores(something, nothing) == exactly({"accuracy": 2 / 3} | zeros)
    assert entity_scores([], []) == {"accuracy": 0.0} | zeros


def test_words_without_prefixes():
    gold, predicted = [["NOUN", "VERB"], ["NOUN", "O"]], [["NOUN", "NOUN"], ["NOUN", "O"]]
    assert entity_scores(gold, predicted) == exactly({"accuracy": 0.75, "f1": 0.75, "macro_f1": (0.8 + 0 + 1) / 3})


@pytest.mark.parametrize(
    ("gold", "predicted", "f1"),
    [("B I O O B", "B O O O B", 0.5), ("S-X O E-X O O", "S-X O O O O", 2 / 3), ("I I O", "I O O", 0)],
)
def test_tags_of_one_kind_or_without_a_beginning_are_of_entities(gold, predicted, f1):
    assert entity_scores([gold.split()], [predicted.split()])["f1"] == exactly(f1)


@pytest.mark.parametrize("tags", ["NOUN VERB O", "IN BE O S", "I S B M", "E-X NOUN"])
def test_other_tags_are_of_words(tags):
    names = tags.split()
    scores = entity_scores([names], [names[:1] * len(names)])
    assert scores["f1"] == scores["accuracy"] == exactly(1 / len(names))


def test_each_word_must_have_its_tag():
    with pytest.raises(ValueError, match="shorter"):
        entity_scores([["O", "O"]], [["O"]])
    with pytest.raises(ValueError, match="shorter"):
        entity_scores([["O"], ["O"]], [["O"]])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Beatles!", "beatles"),
        ("an A-Team, a\tteam", "ateam team"),
        ("theatre", "theatre"),
        ("U.S.A", "usa"),
        ("«Ève»  a", "«ève»"),  # punctuation is that of ASCII
        ("The.", ""),
    ],
)
def test_normalised_answer(text, normal):
    assert normalised_answer(text) == normal


@pytest.mark.parametrize(
    ("references", "prediction", "exact", "f1"),
    [
        (["Denver Broncos"], "the denver broncos.", 1, 1),
        (["Denver Broncos"], "Broncos", 0, 2 / 3),
        (["Carolina", "the Denver Broncos"], "Denver Broncos of Colorado", 0, 2 / 3),  # the most similar counts
        (["to be or not to be"], "to to to be", 0, 2 * 3 / 10),  # each word as often as in both
        (["Denver"], "Carolina", 0, 0),
        (["Denver"], "", 0, 0),
        ([], "", 1, 1),
        ([], "Denver", 0, 0),
        ([""], "", 1, 1),
        ([""], "Denver", 0, 0),
        (["", "Denver"], "", 0, 0),  # there is an answer
        (["the"], "a", 1, 1),
    ],
)
def test_answers(references, prediction, exact, f1):
    assert answer_scores([references], [prediction]) == exactly({"exact_match": exact, "f1": f1})


def test_answers_are_means_over_questions():
    scores = answer_scores([["Denver Broncos"], [], ["x"], ["y"]], ["Broncos", "", "x", "z"])
    assert scores == exactly({"exact_match": 0.5, "f1": (2 / 3 + 1 + 1) / 4})


def questions(seed, ties):
    random = np.random.default_rng(seed)
    words = ["ab", "cd", "ef"]
    answers = [" ".join(pair) for pair in itertools.product(words, words)]
    references = [[] if random.random() < 0.4 else [str(random.choice(answers))] for _ in range(40)]
    predictions = [str(random.choice([*answers, ""])) for _ in references]
    scores = random.integers(-3, 4, 40) / 2 if ties else random.random(40)
    # Mostly right about which has no answer.
    return references, predictions, (scores + [0.5 * (not texts) for texts in references]).tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_best_no_answer_threshold_is_the_best_of_all(ties, seed):
    references, predictions, scores = questions(seed, ties)

    def reached(threshold):
        given = ["" if score > threshold else text for text, score in zip(predictions, scores, strict=True)]
        return answer_scores(references, given)["f1"]

    threshold, f1 = best_no_answer_threshold(references, predictions, scores)
    assert f1 == exactly(reached(threshold))
    assert f1 == exactly(max(map(reached, [*scores, min(scores) - 1])))


@pytest.mark.parametrize(
    ("references", "predictions", "scores", "threshold", "f1"),
    [
        # Running totals, from 2 questions without answer: +1, -1, +0.5, -1.
        ([["a b"], [], ["b c"], []], ["a b", "b", "b d", "c"], [0.1, 0.2, 0.3, 0.4], 0.1, 0.75),
        ([["b"], ["c"], []], ["b", "c", "d"], [-9.0, -7.0, 3.0], -7.0, 1.0),
        ([["b"], ["c"], []], ["b", "c", ""], [1.0, 2.0, 0.0], 2.0, 1.0),  # none was given anyhow
        ([["b"], []], ["b", "c"], [0.5, 0.5], None, 0.5),  # equal scores cannot be told apart
        ([[], []], ["b", "c"], [-2.0, 5.0], None, 1.0),
    ],
)
def test_best_no_answer_threshold_by_hand(references, predictions, scores, threshold, f1):
    found, best = best_no_answer_threshold(references, predictions, scores)
    assert best == exactly(f1)
    if threshold is None:  # nothing is to be answered
        assert found < min(scores)
    else:
        assert found == threshold
