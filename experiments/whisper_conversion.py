"""Carries a Whisper over to folders of `transformers`, and from there and CTranslate2; `experiments.convert` calls it.

Axes: B rows, F frames, M mel bands, T pieces.
"""

import dataclasses
import pathlib
import tempfile

import jax
import numpy as np

from bert_jax.transcript_tokens import TranscriptTokens
from bert_jax.transcript_vocabulary import FILE, read_vocabulary
from core_jax.checkpoints import Checkpoints
from core_jax.config import require
from core_jax.model_folders import check_free, write_folder
from core_jax.sharding import parse_mesh
from core_jax.train import State
from core_jax.workdir import save_config
from experiments.console import print_table, say
from experiments.speech.config import TRANSCRIBING, WhisperSizes
from experiments.speech.peer_files import limits, peer_files
from experiments.speech.starting_points import TOKENIZER, identity, read_whisper, vocabulary_folder
from experiments.speech.transcripts import read_tokens
from experiments.speech.weights import ARCHITECTURE, Whisper, write_hf
from experiments.verification import DIFFERENT, LARGEST, LONGEST, import_peer
from vit_jax.audio_encoder import AudioEncoder

FOREIGN = ("hf:", "ct2:")
ROWS = 2


@dataclasses.dataclass(frozen=True)
class OpenWhisper:
    """A Whisper and its vocabulary."""

    whisper: Whisper  # its parameters on the host
    tokens: TranscriptTokens
    vocabulary: bytes  # content of its tokenizer.json


def convert(source: str, target: str, *, verifies: bool) -> int:
    """Writes a Whisper to another place, and compares it with the peer if asked to; returns the exit code.

    Args:
      source: hf:DIR, ct2:DIR or the work folder of a run.
      target: hf:DIR or the work folder to make.
      verifies: whether to compare.
    Raises:
      UserError: the source cannot be read, or the target not be written.
    """
    kind = target.rpartition(":")[0]
    require(kind in ("", "hf"), f"{target}: a Whisper is written to hf:DIR or a work folder; type one of them")
    require(
        target.startswith(FOREIGN) or source.startswith(FOREIGN),
        f"{source} and {target} are both work folders; expected hf:DIR for one of them",
    )
    folder = pathlib.Path(target.removeprefix("hf:")).expanduser()
    check_free(folder)
    if verifies:
        import_peer()
    found = read(source)
    if kind:
        write_peer(folder, found)
        say(f"{target} is a {ARCHITECTURE} of transformers")
        for line in limits(found.whisper):
            say(line)
    else:
        write_workdir(folder, found)
        say(f"next: python -m experiments.transcribe --init={folder} RECORDING")
    return verify(source, target) if verifies else 0


def read(place: str) -> OpenWhisper:
    """A Whisper from whatever place.

    Raises:
      UserError: it is not there, damaged, or no Whisper.
    """
    whisper = read_whisper(place, parse_mesh("data:1", devices=jax.local_devices()[:1]), say)
    whisper = dataclasses.replace(whisper, params=jax.tree.map(np.asarray, jax.device_get(whisper.params)))
    folder = vocabulary_folder(place)
    tokens = read_tokens(folder, whisper.decoder.vocab_size, whisper.settings)
    return OpenWhisper(whisper, tokens, read_vocabulary(folder))


def write_peer(folder: pathlib.Path, found: OpenWhisper) -> None:
    """Makes a folder that `transformers` opens."""
    write_hf(folder, found.whisper, found.vocabulary.decode(), peer_files(found.whisper, found.tokens))


def write_workdir(folder: pathlib.Path, found: OpenWhisper) -> None:
    """Makes a work folder with config.json, vocabulary and one checkpoint, of step 0; it is whole or absent."""
    whisper = found.whisper
    sizes = WhisperSizes(encoder=whisper.encoder, decoder=whisper.decoder, settings=whisper.settings)

    def write(temporary: pathlib.Path) -> None:
        save_config(temporary, dataclasses.replace(TRANSCRIBING, sizes=sizes))
        kept = temporary / TOKENIZER
        kept.mkdir()
        (kept / FILE).write_bytes(found.vocabulary)
        checkpoints = Checkpoints(temporary / "checkpoints", keep=1, identity=identity(kept), report=say)
        params = jax.device_put(whisper.params, jax.local_devices()[0])
        checkpoints.save(0, State(jax.numpy.int32(0), params, {}, jax.random.key(0)))
        checkpoints.close()

    write_folder(folder, write)


def verify(source: str, target: str) -> int:
    """Runs what was written beside the peer on random sounds and pieces, and prints how they differ.

    Args:
      source: where the model came from.
      target: where it was written.
    Returns:
      The exit code.
    """
    ours = read(target)
    with tempfile.TemporaryDirectory() as scratch:
        theirs = next((place for place in (target, source) if place.startswith("hf:")), "")
        if not theirs:  # neither side is a folder that the peer opens
            theirs = f"hf:{scratch}/exported"
            write_peer(pathlib.Path(theirs.removeprefix("hf:")), read(source))
        differences = compare(ours.whisper, pathlib.Path(theirs.removeprefix("hf:")).expanduser())
    rows = [(name, f"{value:.1e}", f"{largest:.1f}") for name, (value, largest) in differences.items()]
    print_table("beside transformers, float32", ("output", "greatest difference", "greatest value"), rows)
    # Rounding grows with what is rounded: states and logits of large Whispers are far from 1.
    if all(value <= LARGEST * max(1.0, largest) for value, largest in differences.values()):
        return 0
    say(f"they differ by more than {LARGEST} of the greatest value: not the same model")
    return DIFFERENT


def compare(whisper: Whisper, theirs: pathlib.Path) -> dict[str, tuple[float, float]]:
    """The greatest differences of encoder states and logits between a model and a folder of the peer, and their sizes.

    Args:
      whisper: the model.
      theirs: that `transformers` opens.
    Returns:
      For each output the greatest difference, and the greatest absolute value there.
    Raises:
      UserError: the peer is not installed.
    """
    torch, transformers = import_peer()
    parts = {name: dataclasses.replace(getattr(whisper, name), dtype="float32") for name in ("encoder", "decoder")}
    model = dataclasses.replace(whisper, **parts).model
    encoder, decoder = whisper.encoder, whisper.decoder
    random, length = np.random.default_rng(0), min(LONGEST, decoder.maximum_positions)
    sounds = random.standard_normal((ROWS, encoder.frames, encoder.mel_bands), dtype=np.float32)
    tokens = random.integers(0, decoder.vocab_size, (ROWS, length), dtype=np.int32)
    heard = jax.jit(AudioEncoder(parts["encoder"]).apply)({"params": whisper.params["encoder"]}, sounds)
    logits = jax.jit(model.apply)({"params": whisper.params}, sounds, tokens)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, ARCHITECTURE)
    peer = kind.from_pretrained(theirs, attn_implementation="eager", dtype="float32").eval()
    with torch.inference_mode():
        features = torch.tensor(np.ascontiguousarray(sounds.transpose(0, 2, 1)))
        out = peer(features, decoder_input_ids=torch.tensor(tokens.astype(np.int64)))
    pairs = {"encoder states": (heard, out.encoder_last_hidden_state), "logits": (logits, out.logits)}
    outputs = {name: (np.asarray(mine), other.numpy()) for name, (mine, other) in pairs.items()}
    return {name: (float(np.abs(x - y).max()), float(np.abs(y).max())) for name, (x, y) in outputs.items()}
