"""Our declaration of a SentencePiece model reads what the library wrote, and the library reads what it wrote."""

import io

import pytest
import sentencepiece

from bert_jax.sentencepiece_messages import ModelProto, PieceType

BPE = 2  # in the file that declares them; of Unigram, the default, nothing is written


@pytest.fixture(scope="module", params=[False, True], ids=["characters", "bytes"])
def trained(request):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog ran to the cat", "the mat was red"] * 9),
        model_writer=written,
        vocab_size=300 if request.param else 30,
        byte_fallback=request.param,
        model_type="bpe",
        minloglevel=2,
    )
    return written.getvalue()


def test_every_field_is_where_the_library_has_it(trained):
    processor, read = sentencepiece.SentencePieceProcessor(model_proto=trained), ModelProto.FromString(trained)
    size = processor.get_piece_size()
    assert (read.trainer_spec.vocab_size, len(read.pieces), read.trainer_spec.model_type) == (size, size, BPE)
    assert read.trainer_spec.byte_fallback == processor.is_byte(5)
    assert len(read.normalizer_spec.precompiled_charsmap) > 1000
    for index, piece in enumerate(read.pieces):
        assert piece.piece == processor.id_to_piece(index)
        assert piece.score == processor.get_score(index)
        assert (piece.type == PieceType.UNKNOWN) == processor.is_unknown(index)
        assert (piece.type == PieceType.CONTROL) == processor.is_control(index)
        assert (piece.type == PieceType.BYTE) == processor.is_byte(index)


def test_the_library_cuts_as_before(trained):
    """What is not declared is kept as it was; what is, alone, is a model."""
    read = ModelProto.FromString(trained)
    alone = ModelProto(pieces=read.pieces, trainer_spec=read.trainer_spec, normalizer_spec=read.normalizer_spec)
    for message in (alone.trainer_spec, alone.normalizer_spec, *alone.pieces):
        message.DiscardUnknownFields()
    first, second = (sentencepiece.SentencePieceProcessor(model_proto=m) for m in (trained, alone.SerializeToString()))
    for text in ("the cat ran", "a ﬁne  ½ cat", "日本", ""):
        assert first.encode(text) == second.encode(text)
