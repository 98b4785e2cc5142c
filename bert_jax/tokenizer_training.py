"""Training of vocabularies: the same text gives the same bytes, whatever process or machine it runs on."""

import collections
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import sentencepiece
import tokenizers

from bert_jax.sentencepiece_tokenizer import SentencePiece
from bert_jax.t5_vocabulary import T5Vocabulary, from_model
from bert_jax.tokenizer import END_OF_TEXT, SPECIAL_PIECES, ByteLevelBpe, WordPiece
from core_jax.errors import UserError

LARGEST_ALPHABET = 1000  # rarer characters become [UNK]
MOST_WORDS = 4_000_000  # distinct words in memory; beyond, those seen once are forgotten
MOST_OCCURRENCES = 20_000_000  # words given to the trainer; beyond, all counts are scaled down
MOST_LINES = 10_000_000  # lines given to SentencePiece, which holds them in memory: the first ones of the corpus
COVERAGE = 0.9995  # of the characters of a text: SentencePiece's own default
LONGEST_LINE = 10_000  # characters; longer lines are cut, since SentencePiece would skip them


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> WordPiece:
    """Trains a WordPiece vocabulary: pieces are merged by how often they follow each other.

    `tokenizers` numbers characters in the random order of a hash table, which decides ties. So words are counted here,
    and the alphabet is given to it in a fixed order.

    Args:
      texts: the corpus, read once.
      vocab_size: number of pieces; where the text gives fewer, the rest are [unused0], [unused1], ...
      lowercase: whether text is lower-cased and loses its accents, now and whenever it is encoded.
    Returns:
      The tokenizer; its special pieces have the ids 0 to 4.
    Raises:
      UserError: no text, or `vocab_size` leaves no room for pieces.
    """
    if vocab_size < 2 * len(SPECIAL_PIECES):
        raise UserError(
            f"--vocab_size={vocab_size}: expected at least {2 * len(SPECIAL_PIECES)}; 8192 suits small texts"
        )
    counts = _count_words(texts, lowercase)
    if not counts:
        raise UserError("no words to train a vocabulary on: no document of the text holds anything but spaces")
    alphabet = _alphabet(counts, min(LARGEST_ALPHABET, (vocab_size - len(SPECIAL_PIECES)) // 2))
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_PIECES, *alphabet],
        limit_alphabet=0,  # no characters but those
        show_progress=False,
    )
    counter = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    counter.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    counter.train_from_iterator(_occurrences(counts), trainer)
    vocabulary = counter.get_vocab()
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    # As in BERT's own vocabulary: room for words to come, and a size that divides over devices as asked.
    unused = [f"[unused{number}]" for number in range(vocab_size - len(pieces))]
    return WordPiece.from_vocabulary([*pieces, *unused], lowercase=lowercase)


def _count_words(texts: Iterable[str], lowercase: bool) -> dict[str, int]:
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    words: collections.Counter[str] = collections.Counter()
    remaining = iter(texts)
    # Counting what stands between spaces first, and splitting off punctuation once per distinct string, is fast.
    while batch := list(itertools.islice(remaining, 10_000)):
        spaced: collections.Counter[str] = collections.Counter()
        for text in batch:
            spaced.update(normalizer.normalize_str(text).split())
        for string, count in spaced.items():
            if string.isalnum():
                words[string] += count
            else:
                for word, _ in splitter.pre_tokenize_str(string):
                    words[word] += count
        if len(words) > MOST_WORDS:
            words = collections.Counter({word: count for word, count in words.items() if count > 1})
    return words


def _alphabet(counts: dict[str, int], largest: int) -> list[str]:
    """The most frequent characters, and their forms inside words, both in the order of Unicode."""
    characters: collections.Counter[str] = collections.Counter()
    inside: set[str] = set()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
        inside.update(word[1:])
    kept = sorted(sorted(characters), key=lambda character: -characters[character])[:largest]
    return sorted(kept) + sorted(f"##{character}" for character in kept if character in inside)


def _occurrences(counts: dict[str, int]) -> Iterator[str]:
    """Texts in which each word occurs in proportion to its count."""
    scale = max(1.0, sum(counts.values()) / MOST_OCCURRENCES)
    for word, count in sorted(counts.items()):
        remaining = max(1, round(count / scale))
        while remaining > 0:
            yield " ".join([word] * min(remaining, 10_000))
            remaining -= 10_000


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    model_type: Literal["unigram", "bpe"] = "unigram",
    *,
    coverage: float = COVERAGE,
) -> SentencePiece:
    """Trains a SentencePiece model.

    Args:
      texts: the corpus, read once; the first 10 million lines are used.
      vocab_size: the largest number of pieces; a small text gives fewer.
      model_type: unigram language model, or byte-pair merges.
      coverage: share of the characters of the text that have pieces, the most frequent ones; others are unknown.
    Returns:
      The tokenizer; its special pieces have the ids 0 to 4.
    Raises:
      UserError: no text, or `vocab_size` is too small for the characters of the text.
    """
    named = {"pad_piece": SPECIAL_PIECES[0], "unk_piece": SPECIAL_PIECES[1], "control_symbols": [*SPECIAL_PIECES[2:]]}
    special = {"unk_id": 1, "eos_id": -1, **named}
    return SentencePiece(_train_pieces(texts, vocab_size, model_type, special, coverage))


def train_t5_vocabulary(texts: Iterable[str], vocab_size: int, *, coverage: float = COVERAGE) -> T5Vocabulary:
    """Trains a unigram SentencePiece model with the special pieces of a T5, at the ids 0 to 2, and no sentinels.

    Args:
      texts, vocab_size, coverage: as for `train_sentencepiece`.
    Raises:
      UserError: as there.
    """
    special = {"unk_id": 2, "eos_id": 1, "pad_piece": "<pad>"}
    return from_model(_train_pieces(texts, vocab_size, "unigram", special, coverage))


def _train_pieces(texts, vocab_size, model_type, special: dict[str, Any], coverage: float) -> bytes:
    lines = itertools.islice(_short_lines(texts), MOST_LINES)
    first = next(lines, None)
    if first is None:
        raise UserError("no words to train a vocabulary on: no document of the text holds anything but spaces")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=coverage,
            model_type=model_type,
            pad_id=0,
            bos_id=-1,
            **special,
            max_sentence_length=4 * LONGEST_LINE,
            num_threads=4,  # fixed: sums of floats depend on it
            minloglevel=2,
        )
    except RuntimeError as error:
        needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if not needed:
            raise
        raise UserError(
            f"--vocab_size={vocab_size} has no room for the {needed[1]} characters and special pieces of this text. "
            f"Type a larger one, such as --vocab_size={4 * int(needed[1])}"
        ) from error
    return model.getvalue()


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int) -> ByteLevelBpe:
    """Trains a byte-level BPE: pieces are merged by how often they follow each other; the first are the 256 bytes.

    Args:
      texts: the corpus, read once; its distinct words are held in memory.
      vocab_size: the largest number of pieces; a small text gives fewer.
    Returns:
      The tokenizer; its special piece, <|endoftext|>, has the id 0.
    Raises:
      UserError: no text, or `vocab_size` leaves no room for the bytes.
    Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; of bytes, Radford et al. 2019, section 2.2
    """
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet) + 1:
        raise UserError(f"--vocab_size={vocab_size}: expected more than the {len(alphabet)} bytes and {END_OF_TEXT}")
    filled = (text for text in texts if text.strip())
    first = next(filled, None)
    if first is None:
        raise UserError("no words to train a vocabulary on: no document of the text holds anything but spaces")
    model: Any = tokenizers.models.BPE()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain([first], filled), trainer)
    return ByteLevelBpe.from_model(tokenizer.model)


def _short_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            line = line.replace("\0", "").strip()
            for start in range(0, len(line), LONGEST_LINE):
                yield line[start : start + LONGEST_LINE]
