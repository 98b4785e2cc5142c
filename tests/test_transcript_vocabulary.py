"""Whisper folders without a tokenizer.json: the peer's ids from vocab.json, merges.txt and added_tokens.json."""

import json

import pytest
import tokenizers

from bert_jax.transcript_tokens import TranscriptTokens
from bert_jax.transcript_vocabulary import read_vocabulary
from core_jax.errors import UserError
from experiments import finetune, transcribe, whisper_conversion
from experiments.speech import transcripts
from experiments.speech.peer_files import peer_files
from experiments.speech.weights import write_hf
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


@pytest.mark.slow
def test_older_folders_transcribe_and_are_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transcripts, "LANGUAGES_FROM", 0)
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
