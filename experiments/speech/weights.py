"""Whisper models in and out: folders of `transformers`, and of CTranslate2."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from bert_jax.gpt import Gpt
from bert_jax.gpt_config import GptConfig
from bert_jax.transcript_tokens import TranscriptTokens
from core_jax.config import require
from core_jax.ctranslate2_files import read_model_file
from core_jax.encoder_decoder import EncoderDecoder
from core_jax.errors import UserError
from core_jax.model_folders import model_type, read_fields, unlike, write_fields, write_folder
from core_jax.peer_names import check_tensors
from core_jax.safetensors_files import read_tensors, write_tensors
from core_jax.sharding import by_path, nested
from experiments.speech import names
from vit_jax.audio_encoder import STRIDE, AudioEncoder, AudioEncoderConfig

KIND = "a Whisper"
ARCHITECTURE = "WhisperForConditionalGeneration"  # of the peer
TIED = "proj_out.weight"  # saved a second time by some versions
CT2_KIND = "WhisperSpec"
ENCODER_SIZES = {  # ours -> theirs
    "width": "d_model",
    "depth": "encoder_layers",
    "heads": "encoder_attention_heads",
    "mlp_width": "encoder_ffn_dim",
    "mel_bands": "num_mel_bins",
    "maximum_positions": "max_source_positions",
}
DECODER_SIZES = {
    "width": "d_model",
    "depth": "decoder_layers",
    "heads": "decoder_attention_heads",
    "mlp_width": "decoder_ffn_dim",
    "vocab_size": "vocab_size",
    "maximum_positions": "max_target_positions",
}
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")  # of config.json
PLAIN = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}


@dataclasses.dataclass(frozen=True)
class Whisper:
    """A model that writes what it hears."""

    encoder: AudioEncoderConfig
    decoder: GptConfig
    params: PyTree  # "encoder" and "decoder", float32
    # token ids: never written ("suppressed"), not first, and those that frame ("ids"); where known also the
    # "alignment_heads" of the decoder (layer, number), from which the peer tells when a word is said, "languages" (the
    # id of each, by its code; or whether there are several) and "tasks" (ids)
    settings: dict[str, Any]

    @property
    def model(self) -> EncoderDecoder:
        """Both parts as one."""
        return join(self.encoder, self.decoder)


def join(encoder: AudioEncoderConfig, decoder: GptConfig) -> EncoderDecoder:
    """The model of two configurations."""
    return EncoderDecoder(AudioEncoder(encoder), Gpt(decoder))


def hears(init: str) -> bool:
    """Whether --init names a model of this kind."""
    return init.startswith("ct2:") or model_type(init) == PLAIN["model_type"]


def read_hf(folder: str | os.PathLike) -> Whisper:
    """Reads a Whisper as `transformers` saves it.

    Raises:
      UserError: a file is missing or damaged, or the model is no Whisper; all tensors that are wrong are listed.
    """
    folder = pathlib.Path(folder)
    fields = read_fields(folder / "config.json", KIND)
    wanted = {*ENCODER_SIZES.values(), *DECODER_SIZES.values()}
    problems = unlike(fields, PLAIN) + [f"{name} is missing" for name in sorted(wanted - fields.keys())]
    require(not problems, f"{folder}/config.json describes another model:\n  " + "\n  ".join(problems))
    encoder, decoder = _configs(fields, str(folder))
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text()) if file.exists() else {}
    settings = {
        "suppressed": generation.get("suppress_tokens") or fields.get("suppress_tokens") or [],
        "suppressed_first": generation.get("begin_suppress_tokens") or fields.get("begin_suppress_tokens") or [],
        "ids": {name: fields[name] for name in IDS if name in fields},
        **_alignment(generation),
        **_taught(generation, file),
    }
    tensors = read_tensors(folder)
    tensors.pop(TIED, None)
    return Whisper(encoder, decoder, to_params(tensors, encoder, decoder, str(folder)), settings)


def read_ct2(folder: pathlib.Path) -> Whisper:
    """Reads a Whisper of CTranslate2: model.bin and config.json.

    Raises:
      UserError: one of them is missing or damaged, or the model is no Whisper.
    """
    file = folder / "model.bin"
    kind, arrays = read_model_file(file)
    require(kind == CT2_KIND, f"{file} is of the kind {kind}; expected {CT2_KIND}")
    fields = read_fields(folder / "config.json", KIND)
    tensors = names.from_ctranslate2(arrays)
    try:
        sizes = _sizes(tensors, int(arrays["encoder/num_heads"]), int(arrays["decoder/num_heads"]))
    except KeyError as error:
        raise UserError(f"{file} lacks {error}: it is no Whisper, or damaged") from error
    encoder, decoder = _configs(sizes, str(folder))
    tokens = TranscriptTokens.read(folder, languages=False)
    settings = {
        "suppressed": fields.get("suppress_ids", []),
        "suppressed_first": fields.get("suppress_ids_begin", []),
        "ids": {name: tokens.start[0] if "start" in name else tokens.end_id for name in IDS},
        **_alignment(fields),
    }
    return Whisper(encoder, decoder, to_params(tensors, encoder, decoder, str(file)), settings)


def write_hf(
    folder: str | os.PathLike,
    whisper: Whisper,
    vocabulary: str = "",
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes a folder that `transformers` opens.

    Args:
      folder: to make.
      whisper: the model.
      vocabulary: what its tokenizer.json holds.
      beside: fields of further JSON files, such as those of `peer_files`, by name.
    Raises:
      UserError: the folder is not empty.
    """
    tensors = names.to_peer({path: np.asarray(value) for path, value in by_path(whisper.params).items()})
    fields = {"architectures": [ARCHITECTURE], **PLAIN, "dtype": "float32"}
    fields |= {theirs: getattr(whisper.encoder, ours) for ours, theirs in ENCODER_SIZES.items()}
    fields |= {theirs: getattr(whisper.decoder, ours) for ours, theirs in DECODER_SIZES.items()}
    fields |= {"dropout": whisper.decoder.dropout, "attention_dropout": whisper.decoder.attention_dropout}
    fields |= {"activation_dropout": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}

    def write(temporary: pathlib.Path) -> None:
        write_fields(temporary / "config.json", fields | token_fields(whisper.settings))
        write_tensors(temporary, tensors)
        for name, content in (beside or {}).items():
            write_fields(temporary / name, content)
        if vocabulary:
            (temporary / "tokenizer.json").write_text(vocabulary)

    write_folder(pathlib.Path(folder).expanduser(), write)


def token_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the peer calls the token ids of a Whisper's settings."""
    suppressed = {
        "suppress_tokens": settings["suppressed"],
        "begin_suppress_tokens": settings["suppressed_first"],
    }
    return suppressed | settings["ids"]


def to_params(
    tensors: Mapping[str, np.ndarray], encoder: AudioEncoderConfig, decoder: GptConfig, source: str
) -> dict[str, Any]:
    """Gives tensors our names and shapes.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all are listed.
    """
    shapes = {path: leaf.shape for path, leaf in by_path(parameter_shapes(encoder, decoder)).items()}
    check_tensors(tensors, names.peer_shapes(shapes), source, KIND)
    return nested(names.from_peer(tensors, shapes))


def parameter_shapes(encoder: AudioEncoderConfig, decoder: GptConfig) -> PyTree:
    """The shapes of both parts' parameters."""
    return jax.eval_shape(initial_params(join(encoder, decoder)), jax.random.key(0))


def initial_params(model: EncoderDecoder) -> Callable[[Key[Array, ""]], PyTree]:
    """key -> fresh parameters of a model."""
    encoder: Any = model.encoder

    def init(key: Key[Array, ""]) -> PyTree:
        inputs = jnp.zeros((1, STRIDE, encoder.config.mel_bands)), jnp.zeros((1, 2), jnp.int32)
        return model.init(key, *inputs)["params"]

    return init


def _alignment(fields):
    return {"alignment_heads": fields["alignment_heads"]} if fields.get("alignment_heads") else {}


def _taught(generation: Mapping[str, Any], file: pathlib.Path) -> dict[str, Any]:
    """What a generation_config.json says of languages and tasks; nothing, where it says nothing."""
    for name in ("lang_to_id", "task_to_id"):
        ids = generation.get(name) or {}
        whole = isinstance(ids, dict) and all(isinstance(index, int) for index in ids.values())
        require(whole, f"{file}: {name}={ids!r:.60}: expected the id of each piece; fetch the file again")
    several = generation.get("is_multilingual")
    if several is False:
        return {"languages": False}
    ids = {code.strip("<|>"): index for code, index in (generation.get("lang_to_id") or {}).items()}
    found: dict[str, Any] = {"languages": ids or True} if ids or several else {}
    return found | ({"tasks": generation["task_to_id"]} if generation.get("task_to_id") else {})


def _configs(fields, source):
    plain: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "gelu": "erf"}
    try:
        encoder = AudioEncoderConfig(**{ours: fields[theirs] for ours, theirs in ENCODER_SIZES.items()}, **plain)
        return encoder, GptConfig(**{ours: fields[theirs] for ours, theirs in DECODER_SIZES.items()}, **plain)
    except TypeError as error:
        raise UserError(f"the sizes of {source} cannot be read ({error}); expected numbers") from error


def _sizes(tensors, encoder_heads, decoder_heads):
    """The fields of a config.json that tensors tell."""
    rows, width = tensors["model.encoder.embed_positions.weight"].shape
    depths = {
        stack: len({name.split(".")[3] for name in tensors if name.startswith(f"model.{stack}.layers.")})
        for stack in ("encoder", "decoder")
    }
    return {
        "d_model": width,
        "max_source_positions": rows,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "encoder_layers": depths["encoder"],
        "decoder_layers": depths["decoder"],
        "encoder_attention_heads": encoder_heads,
        "decoder_attention_heads": decoder_heads,
        "encoder_ffn_dim": len(tensors["model.encoder.layers.0.fc1.weight"]),
        "decoder_ffn_dim": len(tensors["model.decoder.layers.0.fc1.weight"]),
        "vocab_size": len(tensors["model.decoder.embed_tokens.weight"]),
        "max_target_positions": len(tensors["model.decoder.embed_positions.weight"]),
    }
