"""The tokenised text of a run: made in its work folder where it is not there, or prepared once for several runs."""

import dataclasses
import os
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from bert_jax.config import TextSource
from bert_jax.preparation import (
    TRAINED_TOKENIZERS,
    Preparation,
    check_preparation,
    prepare,
    prepared_folder,
    save_tokenizer,
)
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import load_tokenizer
from core_jax.config import require
from core_jax.distributed import first_decides


@runtime_checkable
class HasVocabulary(Protocol):
    """A model's configuration."""

    @property
    def vocab_size(self) -> int:
        """Pieces of a vocabulary to train."""
        ...


@runtime_checkable
class TextRun(Protocol):
    """The configuration of a run on text, of any family."""

    @property
    def init(self) -> str:
        """What it starts from."""
        ...

    @property
    def text(self) -> TextSource:
        """Which text."""
        ...

    @property
    def model(self) -> HasVocabulary:
        """The model."""
        ...


def make_text(config: TextRun, workdir: str, report: Callable[[str], None]) -> None:
    """Makes the work folder's vocabulary and tokenised corpus where they are not there yet; one process does.

    Args:
      config: says which text and which vocabulary.
      workdir: keeps both, in `tokenizer` and `corpus`.
      report: is told what is being made.
    Raises:
      UserError: the text or the vocabulary cannot be read, or is too small.
    """
    first_decides(lambda: _make_text(config, workdir, report))


def check_text(config: TextRun, workdir: str) -> None:
    """Raises for mistakes in where the text comes from, before any of it is read.

    Raises:
      UserError: no such text or tokenizer, or both are given twice.
    """
    if prepared_folder(config.text.data) is None:
        check_preparation(_preparation(config), workdir)
    else:
        require(
            config.text.tokenizer in TRAINED_TOKENIZERS,
            f"--tokenizer={config.text.tokenizer}: --data={config.text.data} brings its own; leave --tokenizer out",
        )


def given_tokenizer(config: TextRun) -> Tokenizer | None:
    """The tokenizer of a run, where it is there before any text is read; None where it is trained from the text."""
    folder = prepared_folder(config.text.data)
    if folder is not None:
        return load_tokenizer(os.path.join(folder, "tokenizer"))
    path = _preparation(config).tokenizer
    return None if path in TRAINED_TOKENIZERS else load_tokenizer(path)


def corpus_folder(config: TextRun, workdir: str) -> str:
    """Where the tokenised text of a run is.

    Raises:
      UserError: it was prepared for several runs, and is not there any more.
    """
    return os.path.join(prepared_folder(config.text.data) or workdir, "corpus")


def _make_text(config, workdir, report):
    folder, copy = prepared_folder(config.text.data), os.path.join(workdir, "tokenizer")
    if folder is None:
        prepare(_preparation(config), workdir, lambda state: report(state) if isinstance(state, str) else None)
    elif not os.path.isdir(copy):  # a work folder has its vocabulary with it: predicting needs no corpus
        save_tokenizer(load_tokenizer(os.path.join(folder, "tokenizer")), copy)


def is_foreign(init: str) -> bool:
    """Whether --init names weights of another program: hf:DIR or tf:PREFIX."""
    return init.startswith(("hf:", "tf:"))


def _tokenizer_of(init):
    """Where the vocabulary of what --init names is."""
    kind, _, path = init.partition(":")
    if not is_foreign(init):
        return os.path.join(init, "tokenizer")
    return path if kind == "hf" else os.path.join(os.path.dirname(path), "vocab.txt")


def _preparation(config):
    """What --data and --tokenizer ask for; with --init the vocabulary is that of the run to start from."""
    text = config.text
    trains = text.tokenizer in TRAINED_TOKENIZERS
    given = {field.name: getattr(text, field.name, None) for field in dataclasses.fields(Preparation)}
    given |= {"tokenizer": _tokenizer_of(config.init) if config.init and trains else text.tokenizer}
    given |= {"vocab_size": config.model.vocab_size}
    return Preparation(**{name: value for name, value in given.items() if value is not None})
