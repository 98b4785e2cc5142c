import dataclasses

import pytest

from bert_jax.config import PRESETS
from bert_jax.corpus_report import CorpusFigures, corpus_figures
from bert_jax.diagnosis import corpus_findings, training_findings
from bert_jax.preparation import Preparation, prepare
from bert_jax.tokenizer_files import load_tokenizer

LENGTHS = {"0.05": 48, "0.25": 86, "0.5": 121, "0.75": 162, "0.95": 234, "1": 568}
FINE = CorpusFigures(
    documents=10_000,
    held_out_documents=500,
    sentences=36_000,
    tokens=1_300_000,
    exact_duplicates=0,
    near_duplicates=0,
    empty_documents=0,
    repeated_sentence_share=0.0,
    unknown_share=0.0,
    pieces_per_word=1.4,
    vocabulary=4091,
    used_vocabulary=3925,
    single_sentence_share=0.07,
    sentence_lengths=LENGTHS,
    document_lengths=LENGTHS,
)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"repeated_sentence_share": 0.4}, ["40% of the sentences had come before"]),
        ({"exact_duplicates": 8000}, ["8,000 of 18,000 documents are copies"]),
        ({"near_duplicates": 5000}, ["5,000 of 10,000 documents are nearly the same"]),
        ({"tokens": 9000}, ["the text has 9,000 tokens"]),
        ({"documents": 3}, ["the text has 3 documents"]),
        ({"single_sentence_share": 0.9}, ["90% of the documents have a single sentence"]),
        ({"unknown_share": 0.12}, ["12.0% of the tokens are unknown"]),
        ({"pieces_per_word": 3.4}, ["words are cut into 3.4 pieces"]),
        ({"pieces_per_word": None}, []),
        ({"vocabulary": 30_000, "used_vocabulary": 5000}, ["5,000 of the vocabulary's 30,000 pieces"]),
        ({}, []),
    ],
)
def test_findings_in_a_text(changes, found):
    said = [str(finding) for finding in corpus_findings(dataclasses.replace(FINE, **changes))]
    assert len(said) == len(found)
    assert all(text.startswith(start) for text, start in zip(said, found, strict=True)), said


def test_whole_documents_are_not_judged_as_pairs_of_sentences():
    figures = dataclasses.replace(FINE, single_sentence_share=1.0, documents=3, tokens=9000)
    [finding] = corpus_findings(figures, in_sentences=False)
    assert finding.found == "the text has 9,000 tokens"


@pytest.mark.parametrize(
    ("part", "changes", "found", "advice"),
    [
        ("training", {"global_batch_size": 8}, "a step predicts 154 tokens", "--global_batch_size=16"),
        ("text", {"mask_probability": 0.9}, "--mask_probability=0.9", "--mask_probability=0.15"),
        ("text", {"mask_probability": 0.01, "sequence_length": 512, "packing": True}, "--mask_prob", "=0.15"),
        ("text", {"sequence_length": 512}, "half of the documents have 121 tokens", "--packing=True"),
        ("optimizer", {"learning_rate": 0.01}, "--learning_rate=0.01 is very high", "--learning_rate=0.002"),
        ("optimizer", {"learning_rate": 1e-6}, "--learning_rate=1e-06 is very low", "--learning_rate=1e-4"),
        ("optimizer", {"warmup_steps": 0}, "there is no warm-up", "--warmup_steps=10000"),
        ("training", {"steps": 5000}, "the warm-up of 10,000 steps", "--warmup_steps=500"),
    ],
)
def test_findings_in_settings(part, changes, found, advice):
    preset = PRESETS["bert-base"]
    config = dataclasses.replace(preset, **{part: dataclasses.replace(getattr(preset, part), **changes)})
    [finding] = training_findings(config, FINE)
    assert finding.found.startswith(found)
    assert advice in finding.advice


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_fine(preset):
    assert training_findings(PRESETS[preset], FINE) == []


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [4096, 30_522])
def test_the_sample_is_fine(vocab_size, tmp_path):
    prepare(Preparation(vocab_size=vocab_size), str(tmp_path), lambda state: None)
    figures = corpus_figures(tmp_path / "corpus", load_tokenizer(tmp_path / "tokenizer"))
    assert corpus_findings(figures) == []
    for preset in PRESETS.values():
        assert training_findings(preset, figures) == []
