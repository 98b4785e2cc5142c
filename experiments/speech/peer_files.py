"""What `transformers` wants to know of a Whisper beside its sizes, weights and tokenizer.json."""

import math
from typing import Any

from bert_jax.transcript_rules import LATEST_START
from bert_jax.transcript_tokens import ENDS, STARTS_PREVIOUS, TranscriptTokens
from experiments.speech.weights import Whisper, token_fields
from vit_jax.audio_files import RATE
from vit_jax.log_mel import FRAMES_A_SECOND, HOP, WINDOW


def peer_files(whisper: Whisper, tokens: TranscriptTokens) -> dict[str, dict[str, Any]]:
    """The fields of generation_config.json, preprocessor_config.json and tokenizer_config.json, by name.

    Args:
      whisper: the model.
      tokens: its vocabulary.
    """
    return {
        "generation_config.json": _generation_fields(whisper, tokens),
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "processor_class": "WhisperProcessor",
            "feature_size": whisper.encoder.mel_bands,
            "sampling_rate": RATE,
            "hop_length": HOP,
            "n_fft": WINDOW,
            "chunk_length": math.ceil(window_seconds(whisper)),
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": False,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "WhisperTokenizer",
            "processor_class": "WhisperProcessor",
            **dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), ENDS),
            # The last of them stands before the time stamps: there the peer looks for these.
            "additional_special_tokens": tokens.special_pieces,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": whisper.decoder.maximum_positions,
        },
    }


def window_seconds(whisper: Whisper) -> float:
    """How much a Whisper hears at once."""
    return whisper.encoder.frames / FRAMES_A_SECOND


def limits(whisper: Whisper) -> list[str]:
    """What somebody must know who hears with the exported model, beside what all Whispers ask for."""
    seconds, samples = window_seconds(whisper), whisper.encoder.frames * HOP
    if seconds == 30:
        return []
    found = [
        f"it hears {seconds:g} seconds at once, not 30: max_source_positions is {whisper.encoder.maximum_positions}"
    ]
    if seconds != math.ceil(seconds):
        found.append(
            "the peer's feature extractor knows windows of whole seconds alone: call it with "
            f'padding="max_length", max_length={samples}, truncation=True'
        )
    return found


def _generation_fields(whisper: Whisper, tokens: TranscriptTokens) -> dict[str, Any]:
    settings = whisper.settings
    fields = token_fields(settings) | {
        "max_length": whisper.decoder.maximum_positions,
        "max_initial_timestamp_index": LATEST_START,
        "no_timestamps_token_id": tokens.plain_id,
        "return_timestamps": False,
        "is_multilingual": bool(tokens.languages),
    }
    if (previous := tokens.id_of(STARTS_PREVIOUS)) is not None:
        fields["prev_sot_token_id"] = previous
    if tokens.languages:
        fields["lang_to_id"] = {f"<|{code}|>": index for code, index in sorted(tokens.languages.items())}
        fields["task_to_id"] = tokens.tasks
    if "alignment_heads" in settings:
        fields["alignment_heads"] = settings["alignment_heads"]
    return fields
