"""The messages of a SentencePiece model, made for whichever protobuf is installed.

`sentencepiece` has them ready-made, for a protobuf no older than its own; Apache Beam asks for an older one.
Only what is written here is declared.

Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import enum
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FILE, PACKAGE = "bert_jax/sentencepiece_model.proto", "bert_jax"
UNIGRAM = 1  # TrainerSpec.model_type
TYPES = descriptor_pb2.FieldDescriptorProto
# Name, number and type of every field; those of the enumerations travel as whole numbers do.
MESSAGES = {
    "SentencePiece": (("piece", 1, TYPES.TYPE_STRING), ("score", 2, TYPES.TYPE_FLOAT), ("type", 3, TYPES.TYPE_INT32)),
    "TrainerSpec": (
        ("model_type", 3, TYPES.TYPE_INT32),
        ("vocab_size", 4, TYPES.TYPE_INT32),
        ("byte_fallback", 35, TYPES.TYPE_BOOL),
    ),
    "NormalizerSpec": (("precompiled_charsmap", 2, TYPES.TYPE_BYTES),),
    "ModelProto": (
        ("pieces", 1, "SentencePiece"),
        ("trainer_spec", 2, "TrainerSpec"),
        ("normalizer_spec", 3, "NormalizerSpec"),
    ),
}
REPEATED = {"pieces"}


class PieceType(enum.IntEnum):
    """What a piece stands for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=FILE, package=PACKAGE)
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, number, kind in fields:
            label = TYPES.LABEL_REPEATED if name in REPEATED else TYPES.LABEL_OPTIONAL
            field = declared.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = TYPES.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.ModelProto"))


ModelProto = _model_class()
