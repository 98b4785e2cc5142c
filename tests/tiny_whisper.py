"""A Whisper small enough to compile in seconds, its vocabulary, and sounds to hear."""

import functools
import json
import pathlib
import struct
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
import tokenizers

from bert_jax.gpt_config import GptConfig
from bert_jax.transcript_tokens import TranscriptTokens
from core_jax.grid_positions import sincos_waves
from core_jax.sharding import path_name
from experiments.speech.weights import Whisper, parameter_shapes
from vit_jax.audio_encoder import AudioEncoderConfig
from vit_jax.audio_files import RATE

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|de|>", "<|en|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
SECONDS = 1.0  # of a window
STAMPS = 51  # 0.00 to 1.00 seconds
IDS = {"bos_token_id": 8, "eos_token_id": 8, "pad_token_id": 8, "decoder_start_token_id": 9}
SETTINGS = {"suppressed": [1, 2], "suppressed_first": [3], "ids": IDS}
VOCABULARY = len(WORDS) + len(SPECIAL) + STAMPS
ENCODER = AudioEncoderConfig(
    width=24, depth=2, heads=4, mlp_width=40, mel_bands=12, maximum_positions=50, dtype="float32"
)
DECODER = GptConfig(
    width=24,
    depth=2,
    heads=4,
    mlp_width=40,
    vocab_size=VOCABULARY,
    maximum_positions=30,
    gelu="erf",
    dropout=0.0,
    attention_dropout=0.0,
    dtype="float32",
)


@functools.cache
def whisper(seed: int = 0, scale: float = 0.3) -> Whisper:
    """The model of WORDS."""
    return drawn(ENCODER, DECODER, SETTINGS, seed, scale)


def drawn(
    encoder: AudioEncoderConfig, decoder: GptConfig, settings: dict[str, Any], seed: int = 0, scale: float = 0.3
) -> Whisper:
    """A model whose parameters are none of them 0 or 1, but the bias of keys, which the peer has not."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path_name(path)
        if name.endswith("key/bias"):
            return jnp.zeros(leaf.shape)
        if name == "encoder/positions":
            return jnp.asarray(sincos_waves(*leaf.shape))
        value = scale * random.standard_normal(leaf.shape)
        return jnp.asarray(value + 1 if name.endswith("scale") else value, jnp.float32)

    params = jax.tree.map_with_path(draw, parameter_shapes(encoder, decoder))
    return Whisper(encoder, decoder, params, settings)


def tokens(languages: bool = True) -> TranscriptTokens:
    """Its vocabulary."""
    return TranscriptTokens(tokenizer(), languages=languages)


def tokenizer() -> tokenizers.Tokenizer:
    """A letter is a piece."""
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    found.add_special_tokens(SPECIAL)
    return found


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    """A sine."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noises(count: int) -> list[np.ndarray]:
    """Sounds of several lengths, up to more than two windows."""
    random = np.random.default_rng(1)
    lengths = [round(RATE * seconds) for seconds in (0.4, 2.3, 0.9, 1.0, 1.7)[:count]]
    hiss = (0.1 * random.standard_normal(length) for length in lengths)
    return [(noise + tone(300.0, len(noise) / RATE)).astype(np.float32) for noise in hiss]


def write_clips(folder: pathlib.Path, count: int) -> list[str]:
    """The noises as files."""
    paths = [str(folder / f"{number}.wav") for number in range(count)]
    for path, samples in zip(paths, noises(count), strict=True):
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    return paths


def write_spoken(folder: pathlib.Path, count: int, seconds: float = 0.5) -> str:
    """Recordings of one letter each, every letter a tone of its own, and the list of them; gives --data."""
    lines = []
    for number in range(count):
        letter = number % 4
        path = folder / f"spoken_{number}.wav"
        sound = tone(300.0 + 500 * letter, seconds + 0.02 * number)
        soundfile.write(path, sound, RATE, subtype="FLOAT")
        lines.append(json.dumps({"audio": str(path), "text": WORDS[letter + 4], "voice": f"voice {letter % 2}"}))
    file = folder / "spoken.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return f"jsonl:{file}"


def ctranslate2_bytes(arrays: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6) -> bytes:
    """A model.bin."""
    kinds = [np.float32, np.int8, np.int16, np.int32, np.float16]

    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, value in arrays.items():
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        parts += [text(name), shape, struct.pack("<BI", kinds.index(value.dtype.type), value.nbytes), value.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    return b"".join([*parts, *(text(alias) + text(name) for alias, name in aliases.items())])


def write_ctranslate2(folder: pathlib.Path, content: bytes) -> None:
    """A folder of CTranslate2."""
    (folder / "model.bin").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"suppress_ids": [1, 2], "suppress_ids_begin": [3]}))
    tokenizer().save(str(folder / "tokenizer.json"))
