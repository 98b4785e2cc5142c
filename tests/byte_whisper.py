"""A small Whisper whose vocabulary is of the published kind: byte-level BPE, then special pieces, then time stamps."""

import dataclasses

import tokenizers

from bert_jax.transcript_tokens import TranscriptTokens
from experiments.speech.weights import Whisper
from tests.tiny_whisper import DECODER, ENCODER, SPECIAL, STAMPS, drawn

TEXTS = ["the cat sat on the mat", "that is what it said, isn't it?", "a bat and a rat sat there"]


def vocabulary(stamps: int = STAMPS) -> tokenizers.Tokenizer:
    """The vocabulary; some published ones have their time stamps as pieces, others have numbers for them alone."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator(TEXTS, trainer)
    found.add_special_tokens(SPECIAL)
    names = [f"<|{number * 0.02:.2f}|>" for number in range(stamps)]
    found.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in names])
    return found


def tokens() -> TranscriptTokens:
    """The same, to write transcripts with."""
    return TranscriptTokens(vocabulary(), languages=True)


def byte_whisper(positions: int = ENCODER.maximum_positions) -> Whisper:
    """A model of that vocabulary that hears so many positions."""
    found = tokens()
    end = found.end_id
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": found.start[0]}
    settings = {"suppressed": [1, 2], "suppressed_first": [3], "ids": ids, "alignment_heads": [[1, 0], [1, 3]]}
    settings |= {"languages": found.languages, "tasks": found.tasks}
    encoder = dataclasses.replace(ENCODER, maximum_positions=positions)
    decoder = dataclasses.replace(DECODER, vocab_size=found.first_stamp + STAMPS)
    return drawn(encoder, decoder, settings)
