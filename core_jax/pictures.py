"""Pictures as PNG files: which classes are taken for which, curves over steps, maps over a picture.

Axes: N examples, C classes; of a picture H x W pixels and C colours.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from jaxtyping import Float, Int
from sklearn import metrics

from core_jax.atomic_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED_CLASSES = 25  # up to so many, each cell says how many examples it has
CELL = 0.4  # inches
SMALLEST, LARGEST = 2.5, 16.0  # inches of a matrix: many classes get smaller cells
LONGEST_NAME = 24  # letters of a class's name that are shown
FEW_POINTS = 40  # up to so many are marked: else one alone would not be seen
POINTS_PER_INCH = 72


def confusion_matrix_picture(
    path: epath.PathLike, labels: Int[np.ndarray, " N"], predictions: Int[np.ndarray, " N"], names: Sequence[str]
) -> None:
    """Draws which classes are taken for which: a row for each right class, coloured by its shares.

    Args:
      path: of the picture, .png; a part of it is never seen.
      labels: the right classes.
      predictions: the classes given.
      names: of all classes, in their order.
    """
    counts = metrics.confusion_matrix(labels, predictions, labels=np.arange(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(CELL * len(names), SMALLEST), LARGEST)
    letters = min(9.0, 0.7 * POINTS_PER_INCH * side / len(names))
    figure = _figure(side + 3, side + 2)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # A name is text, whatever signs of formulas are in it.
    shown = {"labels": [_shortened(name) for name in names], "fontsize": letters, "parse_math": False}
    axes.set_xticks(range(len(names)), rotation=90, **shown)
    axes.set_yticks(range(len(names)), **shown)
    if len(names) <= NUMBERED_CLASSES:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]}"
            axes.text(column, row, text, color=color, ha="center", va="center", fontsize=0.8 * letters)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    right, total = int(np.trace(counts)), int(counts.sum())
    axes.set_title(f"{right:,} of {total:,} right", loc="left")
    figure.colorbar(image, ax=axes, label="share of the row", format="{x:.0%}", shrink=0.7)
    _save(figure, path)


def curves_picture(
    path: epath.PathLike, curves: Mapping[str, tuple[Sequence[int], Sequence[float | int]]], y_label: str
) -> None:
    """Draws values over steps, one line each.

    Args:
      path: of the picture, .png; a part of it is never seen.
      curves: {name: (steps, values)}, each as long as the other; values that are not finite leave a gap.
      y_label: what the values are.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8.0, 4.5)
    axes = figure.subplots()
    for name, (steps, values) in curves.items():
        finite = np.where(np.isfinite(values), values, np.nan)
        [line] = axes.plot(steps, finite, marker="o" if len(steps) <= FEW_POINTS else "", markersize=4)
        line.set_label(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step")
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(frameon=False)
    _save(figure, path)


def overlay_picture(
    path: epath.PathLike, picture: Float[np.ndarray, "H W C"], heat: Float[np.ndarray, "rows columns"], title: str
) -> None:
    """Draws a map of few cells over a picture, smoothly.

    Args:
      path: of the drawing, .png; a part of it is never seen.
      picture: grey or red, green and blue, values from 0 to 1.
      heat: of the cells, however large they are.
      title: above it.
    """
    height, width = picture.shape[:2]
    side = LARGEST / 3
    figure = _figure(side * min(1.0, width / height), side * min(1.0, height / width) + 0.3)
    axes = figure.subplots()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent)
    axes.imshow(heat, cmap="inferno", alpha=0.55, interpolation="bilinear", extent=extent)
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=9, parse_math=False)
    _save(figure, path)


def rows_over_time_picture(
    path: epath.PathLike,
    spectrogram: Float[np.ndarray, "M F"],
    rows: Float[np.ndarray, "N S"],
    names: Sequence[str],
    *,
    seconds: float,
) -> None:
    """Draws a spectrogram, and below it rows of weights over the same time.

    Args:
      path: of the drawing, .png; a part of it is never seen.
      spectrogram: from low to high bands.
      rows: of weights, each scaled by its largest.
      names: of the rows.
      seconds: that both last.
    """
    height = max(1.5, 0.2 * len(rows))
    figure = _figure(LARGEST / 2, height + 2.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, height))
    above.imshow(spectrogram, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(spectrogram)))
    above.set_ylabel("mel band")
    scaled = rows / np.maximum(rows.max(axis=1, keepdims=True), 1e-12)
    below.imshow(scaled, aspect="auto", cmap="Blues", interpolation="nearest", extent=(0, seconds, len(rows), 0))
    below.set_yticks(np.arange(len(rows)) + 0.5, labels=list(names), fontsize=7, parse_math=False)
    below.set_xlabel("seconds")
    _save(figure, path)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # half a second that only pictures need

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: epath.PathLike) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
