"""Pictures of TFDS datasets, read without TensorFlow; images stay as they are in the files until they are decoded."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from core_jax.errors import UserError
from core_jax.prepared_datasets import check_split, prepared_dataset
from vit_jax.image_files import open_image
from vit_jax.images_config import ImagesConfig
from vit_jax.picture_sources import Picture

SCORED_SPLITS = ("validation", "test")  # the first that is there is scored on


@dataclasses.dataclass(frozen=True)
class DatasetPictures:
    """Pictures in a split of a dataset."""

    classes: tuple[str, ...]
    name: str  # of dataset and split, for messages
    rows: Any  # the data source of TFDS, images not decoded
    image_column: str
    label_column: str

    def __len__(self) -> int:
        return len(self.rows)

    def picture(self, index: int) -> Picture:
        """Reads a row; raises BadImageError where its image is no image, UserError where it has no label."""
        row, name = self.rows[index], f"example {index} of {self.name}"
        label = int(row[self.label_column])
        if not 0 <= label < len(self.classes):  # TFDS gives examples without label -1
            raise UserError(
                f"{name} has no label: column {self.label_column!r} holds {label}. Choose a split whose examples are "
                "labelled, with --data_split or --validation_split"
            )
        return Picture(open_image(bytes(row[self.image_column]), name), label)

    def keys(self) -> list[bytes]:
        """What each picture is held out by: its number."""
        return [str(index).encode() for index in range(len(self))]


@dataclasses.dataclass(frozen=True)
class FoundDataset:
    """A dataset of labelled images, and what of it is read."""

    builder: Any
    data: str
    image_column: str
    label_column: str
    train_split: str
    scored_split: str  # empty: a share of the other

    def pictures(self, split: str) -> DatasetPictures:
        """Opens a split.

        Raises:
          UserError: it holds no examples.
        """
        import tensorflow_datasets as tfds

        kept = {self.image_column: tfds.decode.SkipDecoding()}
        rows = self.builder.as_data_source(split, decoders=kept)
        if not len(rows):
            raise UserError(f"split {split!r} of {self.data} holds no examples: expected at least one")
        classes = tuple(self.builder.info.features[self.label_column].names)
        return DatasetPictures(classes, f"{split} of {self.data}", rows, self.image_column, self.label_column)


def find_dataset(images: ImagesConfig, name: str) -> FoundDataset:
    """Finds a dataset and what it calls images, classes and splits.

    Args:
      images: its data, data_dir, columns and splits are read.
      name: of the dataset.
    Raises:
      UserError: no such dataset, split or column, or none that is fit.
    """
    import tensorflow_datasets as tfds

    builder = prepared_dataset("tfds", name, images.data_dir or None)
    features = builder.info.features
    kinds = {
        "image": [column for column, feature in features.items() if isinstance(feature, tfds.features.Image)],
        "label": [column for column, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)],
    }
    image_column = _column(images.data, "image", images.image_column, kinds["image"])
    label_column = _column(images.data, "label", images.label_column, kinds["label"])
    classes = features[label_column].num_classes or 0
    if classes < 2:
        raise UserError(f"{images.data}, column {label_column!r}, has {classes} classes; expected two at least")
    check_split(builder, images.data, images.data_split)
    scored = images.validation_split or next((split for split in SCORED_SPLITS if split in builder.info.splits), "")
    if scored:
        check_split(builder, images.data, scored)
    if scored == images.data_split:
        raise UserError(
            f"{images.data}: split {scored!r} would be trained on and scored on. Give another --validation_split, such "
            "as --data_split=train[:90%] and --validation_split=train[90%:]"
        )
    return FoundDataset(builder, images.data, image_column, label_column, images.data_split, scored)


def _column(data: str, kind: str, wanted: str, found: Sequence[str]) -> str:
    """The column of a kind that the user means."""
    if wanted in found or (not wanted and len(found) == 1):
        return wanted or found[0]
    what = {"image": "images", "label": "classes"}[kind]
    if not found:
        raise UserError(f"{data} has no column of {what}; expected a dataset for image classification")
    asked = f"has no column of {what} named {wanted!r}" if wanted else f"has several columns of {what}"
    raise UserError(f"{data} {asked}: {', '.join(map(repr, found))}. Say which with --{kind}_column=NAME")
