import numpy as np
import pytest
from matplotlib.image import imread

from core_jax import pictures
from core_jax.pictures import confusion_matrix_picture, curves_picture

LABELS, PREDICTIONS = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 0])
NAMES = ["$a_{", "_b\\", "never, and with a name far too long"]  # nothing of it is a formula


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, instead of their files."""
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    return figures


def test_confusion_matrix_has_labels_as_rows(drawn):
    confusion_matrix_picture("unused.png", LABELS, PREDICTIONS, NAMES)
    axes = drawn[0].axes[0]
    shares = axes.images[0].get_array()
    np.testing.assert_array_equal(shares, [[0.75, 0.25, 0], [1, 0, 0], [0, 0, 0]])
    # Text stands at (column, row).
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (0, 1): "2"}
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == [*NAMES[:2], "never, and with a name …"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "label")
    assert axes.get_title(loc="left") == "3 of 6 right"


def test_curves_are_drawn_as_they_are(drawn):
    curves = {
        "training": (list(range(100)), [1 / (1 + step) for step in range(100)]),
        "validation": ([50, 99, 120], [0.5, float("nan"), float("inf")]),
        "one": ([99], [1]),
        "none": ([], []),
    }
    curves_picture("unused.png", curves, "loss")
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines.keys() == curves.keys()
    for name, (steps, values) in curves.items():
        np.testing.assert_array_equal(lines[name].get_xdata(), steps)
        np.testing.assert_array_equal(lines[name].get_ydata(), [v if np.isfinite(v) else np.nan for v in values])
    assert {name: line.get_marker() for name, line in lines.items() if line.get_xdata().size} == {
        "training": "",
        "validation": "o",
        "one": "o",
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [*curves]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")


@pytest.mark.parametrize("classes", [2, 11, 30, 151])
def test_confusion_matrix_fits_its_file(classes, tmp_path):
    labels = np.random.default_rng(0).integers(0, classes, 300)
    names = [*NAMES, *(f"class {number}" for number in range(classes))][:classes]
    path = tmp_path / "matrix.png"
    confusion_matrix_picture(path, labels, labels[::-1].copy(), names)
    height, width, _ = imread(path).shape
    assert 400 < height < width < 2400
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("curves", [{}, {"training": ([1], [0.5])}, {"training": ([1, 2], [float("nan")] * 2)}])
def test_curves_without_much_to_show(curves, tmp_path):
    curves_picture(str(tmp_path / "loss.png"), curves, "loss")
    assert imread(tmp_path / "loss.png").shape == (540, 960, 4)


def test_a_picture_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    curves_picture(path, {"a": ([1, 2], [1.0, 2.0])}, "loss")
    before = path.read_bytes()
    curves_picture(path, {"a": ([1, 2], [2.0, 1.0])}, "loss")
    after = path.read_bytes()
    assert after != before

    def fail(figure, file, **settings):
        file.write(b"part")
        raise OSError("no space")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="no space"):
        curves_picture(path, {"a": ([1], [1.0])}, "loss")
    assert path.read_bytes() == after
    assert list(tmp_path.iterdir()) == [path]
