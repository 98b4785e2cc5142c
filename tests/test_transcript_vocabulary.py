"""Whisper folders without a tokenizer.json: the peer's ids from vocab.json, merges.txt and added_tokens.json."""

import json

import pytest
import tokenizers

from bert_jax.transcript_tokens import TranscriptTokens
from bert_jax.transcript_vocabulary import read_vocabulary
from core_jax.errors import UserError
from experiments import finetune, transcribe, whisper_conversion
from experiments.speech.peer_files import peer_files
from experiments.speech.transcripts import read_tokens
from experiments.speech.weights import read_hf, write_hf
from tests.byte_whisper import TEXTS, byte_whisper, tokens, vocabulary
from tests.tiny_whisper import STAMPS, write_clips, write_spoken

TRICKY = [*TEXTS, " The cat.\n\nTwo  blanks, 日本", "a<|en|> b <|0.02|>c", "<|endoftext|><|notimestamps|>", ""]


def write_older(folder, stamps=STAMPS, ends_in_pieces=False):
    """The vocabulary as older versions of the peer write it; in some folders the end is one of the plain pieces."""
    content = json.loads(vocabulary(stamps).to_str())
    pieces, added = content["model"]["vocab"], {one["content"]: one["id"] for one in content["added_tokens"]}
    if ends_in_pieces:
        pieces["<|endoftext|>"] = added.pop("<|endoftext|>")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(pieces))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "normalizer.json").write_text('{"colour": "color"}')
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer", **ends}))


@pytest.mark.parametrize("stamps", [0, STAMPS])
@pytest.mark.parametrize("ends_in_pieces", [False, True])
def test_ids_are_those_of_the_peer(tmp_path, stamps, ends_in_pieces):
    transformers = pytest.importorskip("transformers")
    write_older(tmp_path, stamps, ends_in_pieces)
    ours = tokenizers.Tokenizer.from_buffer(read_vocabulary(tmp_path))
    peer = transformers.WhisperTokenizer.from_pretrained(tmp_path)
    for text in TRICKY:
        assert ours.encode(text, add_special_tokens=False).ids == peer(text, add_special_tokens=False).input_ids, text
    assert ours.get_vocab() == peer.get_vocab() == vocabulary(stamps).get_vocab()
    read, whole = TranscriptTokens.read(tmp_path, languages=True), TranscriptTokens(vocabulary(stamps), languages=True)
    assert (read.end_id, read.first_stamp, read.languages) == (whole.end_id, whole.first_stamp, whole.languages)
    assert [read.text(row) for row in read.encode(TEXTS)] == [f" {text}" for text in TEXTS]


def test_what_is_missing_or_damaged_is_named(tmp_path):
    write_older(tmp_path)
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    ids = json.dumps({piece: index + (index > 283) for piece, index in added.items()})
    for name, content, message in (
        ("added_tokens.json", ids, "without a gap; these do not: .* 285"),
        ("added_tokens.json", "{", r"added_tokens\.json cannot be read"),
        ("added_tokens.json", '{"<|en|>": "one"}', "expected a number for each piece"),
        ("merges.txt", "a b c\n", "expected two pieces, with a blank between, a line"),
        ("merges.txt", "unknown pieces\n", r"does not fit vocab\.json beside it"),
        ("merges.txt", None, r"there is no merges\.txt beside .*vocab\.json"),
        ("vocab.json", None, r"no tokenizer\.json in .*, and no vocab\.json"),
    ):
        write_older(tmp_path)
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=message):
            TranscriptTokens.read(tmp_path, languages=True)


PIECES = {"de": 282, "en": 283}


@pytest.mark.parametrize(
    ("generation", "size", "languages"),
    [
        ({}, 1_909, PIECES),  # the pieces tell
        ({}, 51_864, {}),  # a published model of English, whose vocabulary has all pieces
        ({}, 51_865, PIECES),
        ({"is_multilingual": False}, 51_865, {}),
        ({"is_multilingual": True}, 51_864, PIECES),
        ({"is_multilingual": True, "lang_to_id": {"<|de|>": 282}}, 1_909, {"de": 282}),
    ],
)
def test_languages_are_those_that_the_model_was_taught(tmp_path, generation, size, languages):
    write_hf(tmp_path, byte_whisper(), vocabulary().to_str(), {"generation_config.json": generation})
    found = read_tokens(tmp_path, size, read_hf(tmp_path).settings)
    assert found.languages == languages
    prompt = found.prompt("de" if languages else "en", "transcribe", stamps=True)
    assert prompt == [*found.start, *([PIECES["de"], found.id_of("<|transcribe|>")] if languages else [])]


def test_ids_of_tasks_are_those_of_the_model(tmp_path):
    generation = {"is_multilingual": True, "task_to_id": {"transcribe": 7}}
    write_hf(tmp_path, byte_whisper(), vocabulary().to_str(), {"generation_config.json": generation})
    found = read_tokens(tmp_path, 1_909, read_hf(tmp_path).settings)
    assert found.prompt("de", "transcribe", stamps=True) == [*found.start, found.languages["de"], 7]
    with pytest.raises(UserError, match="--task=translate: this model knows transcribe only"):
        found.prompt("de", "translate", stamps=True)
    (tmp_path / "generation_config.json").write_text('{"lang_to_id": ["<|de|>"]}')
    with pytest.raises(UserError, match=r"generation_config\.json: lang_to_id=.* expected the id of each piece"):
        read_hf(tmp_path)


def test_a_vocabulary_of_english_alone_has_no_other_language():
    content = vocabulary().to_str()
    for gone, other in (("<|de|>", "<|x1|>"), ("<|trans", "<|x2")):
        english = TranscriptTokens(tokenizers.Tokenizer.from_str(content.replace(gone, other)), languages=True)
        assert english.languages == {}


@pytest.mark.slow
def test_older_folders_transcribe_and_are_trained(tmp_path, capsys):
    write_hf(tmp_path / "new", byte_whisper(), vocabulary().to_str(), peer_files(byte_whisper(), tokens()))
    write_hf(tmp_path / "old", byte_whisper())
    write_older(tmp_path / "old")
    [clip] = write_clips(tmp_path, 1)
    for name in ("new", "old"):
        assert transcribe.main([f"--init=hf:{tmp_path}/{name}", clip, "--language=de"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert first == second
    data = write_spoken(tmp_path, 8)
    flags = ["--task=transcription", f"--init=hf:{tmp_path}/old", f"--data={data}", f"--validation_data={data}"]
    flags += ["--sequence_length=24", "--global_batch_size=8", "--steps=1", f"--workdir={tmp_path}/run"]
    assert finetune.main(flags) == 0
    kept = whisper_conversion.read(f"{tmp_path}/run").vocabulary
    assert kept == (tmp_path / "run" / "tokenizer" / "tokenizer.json").read_bytes()
    assert tokenizers.Tokenizer.from_buffer(kept).get_vocab() == vocabulary().get_vocab()
