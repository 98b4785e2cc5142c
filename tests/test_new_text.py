"""New text as it comes: nothing that is shown is taken back, nothing after a stop string is shown."""

import pytest

from bert_jax.new_text import NewText
from tests.byte_pieces import byte_tokenizer

TOKENIZER = byte_tokenizer()


def pieces(text):
    return TOKENIZER.encode([text])[0]


def shown(text, stops=(), size=1):
    """What is shown of a text that comes `size` tokens at a time, in parts."""
    new, tokens = NewText(TOKENIZER, pieces("Once"), stops), pieces(text)
    parts = []
    for place in range(0, len(tokens), size):
        parts.append(new.add(tokens[place : place + size]))
        if new.is_stopped:
            break
    parts.append(new.close())
    assert "".join(parts) == new.text
    return parts


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_characters_of_several_bytes_come_whole(size):
    parts = shown(" naïve 日本 🙂.", size=size)
    assert "".join(parts) == " naïve 日本 🙂."
    assert not any("\ufffd" in part for part in parts)


def test_bytes_that_are_no_character_are_shown_at_the_end():
    new = NewText(TOKENIZER, pieces("Once"))
    assert new.add(pieces("a") + pieces("é")[:1]) == "a"
    assert new.close() == "\ufffd"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_text_ends_before_the_first_stop_string(size):
    assert "".join(shown(" a b.\n\nNext. END", ("END", "\n\n"), size)) == " a b."
    assert "".join(shown(" EN and END", ("END",), size)) == " EN and "
    assert "".join(shown(" no stop, but EN", ("END",), size)) == " no stop, but EN"
    assert "".join(shown("aab", ("ab",), size)) == "a"


def test_what_may_become_a_stop_string_waits():
    assert shown("xEND", ("END",))[:4] == ["x", "", "", ""]
    assert shown("xENx", ("END",))[:4] == ["x", "", "", "ENx"]


def test_a_stop_string_in_the_prompt_stops_nothing():
    new = NewText(TOKENIZER, pieces("END"), ("END",))
    assert new.add(pieces(" and on")) == " and on"
    assert not new.is_stopped
