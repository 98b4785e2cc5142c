"""Datasets of TFDS that are prepared as ArrayRecord, and the sample as one of them: opened and read without TensorFlow.

TFDS is imported only where it is used, since the import takes half a second.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

from core_jax.errors import UserError

DATASET_NAME = re.compile(r"\w+(/[\w.\-]+)?(:\d[\d.*]*)?")
RECORDS_AT_ONCE = 512  # read together from a dataset: faster than one by one, and little memory


def prepared_dataset(scheme: str, name: str, data_dir: str | None) -> Any:
    """Opens a dataset that can be read without TensorFlow; of the sample, makes it first.

    Args:
      scheme: "tfds" or "sample".
      name: of the dataset, NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      data_dir: as for `read_documents`.
    Returns:
      The builder, whose `as_data_source` gives the rows.
    Raises:
      UserError: there is none, or it is prepared otherwise.
    """
    import tensorflow_datasets as tfds

    from core_jax import sample_data

    if scheme == "sample":
        return sample_data.prepare_sample(data_dir)
    folder = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    build = f"tfds build {name} --file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
    needs = "(TFDS needs TensorFlow for this, once: pip install -e '.[prepare]')"
    if not DATASET_NAME.fullmatch(name):
        raise UserError(f"tfds:{name} is not a name of a dataset; expected NAME, NAME/CONFIG or NAME/CONFIG:VERSION")
    with sample_data.quiet_logs():
        try:
            builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
        except (ValueError, ImportError) as error:  # a dataset whose code needs TensorFlow counts as unknown, too
            near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1, cutoff=0.8)
            raise UserError(
                f"tfds:{name} is not among the datasets prepared in {folder}. "
                + (f"Did you mean tfds:{near[0]}? " if near and near[0] != name else "")
                + f"To prepare it, type: {build} {needs}"
            ) from error
        if not builder.is_prepared():
            raise UserError(f"tfds:{name} is not prepared yet in {builder.data_dir}. Type: {build} {needs}")
    found = builder.info.file_format
    if found is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"tfds:{name} is prepared as {getattr(found, 'value', found)} in {builder.data_dir}; expected "
            f"array_record, which can be read without TensorFlow. Type: {build} --overwrite {needs}"
        )
    return builder


@contextlib.contextmanager
def described_dataset(scheme: str, name: str, data_dir: str | None) -> Iterator[Any]:
    """As `prepared_dataset`, to look at: the sample is not made, only whether it can be is found out.

    While inside, TFDS does not say that the sample is not there yet.

    Raises:
      UserError: there is no such dataset, it is prepared otherwise, or the sample wheel is not installed.
    """
    if scheme != "sample":
        yield prepared_dataset(scheme, name, data_dir)
        return
    from core_jax import sample_data

    with sample_data.quiet_logs():
        builder = sample_data.sample_builder(data_dir)
        if not builder.is_prepared():
            sample_data.sample_file()
        yield builder


def check_split(builder: Any, data: str, split: str) -> None:
    """Raises where a dataset has no such split.

    Args:
      builder: of the dataset.
      data: what the user typed, for messages.
      split: in the notation of TFDS.
    Raises:
      UserError: with the splits that there are.
    """
    splits = list(builder.info.splits) or ["train"]  # the sample before it is prepared
    try:
        known = builder.info.splits[split] is not None if builder.is_prepared() else split.split("[")[0] in splits
    except (KeyError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{data} has no split {split!r}. Splits: {', '.join(splits)}, or a part of one such as {splits[0]}[:10%]"
        )


def dataset_rows(builder: Any, split: str, first: int, end: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows first .. end - 1 of a split with their numbers."""
    rows = builder.as_data_source(split)
    for start in range(first, end, RECORDS_AT_ONCE):
        numbers = range(start, min(start + RECORDS_AT_ONCE, end))
        yield from zip(numbers, rows.__getitems__(list(numbers)), strict=True)
