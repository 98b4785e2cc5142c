"""Whatever happens to a checkpoint's files: the numbers that come back are right, and what is wrong is said."""

import functools
import gc
import os
import shutil
import time

import jax
import pytest

from core_jax import checkpoints
from core_jax.checkpoints import restore_params, saved_steps
from core_jax.errors import UserError
from core_jax.sharding import tree_shardings
from tests.checkpoint_folder import IDENTITY, abstract_on, assert_same_bits, contents, train, two_checkpoints
from tests.tiny_training import mesh_of

# When a read fails, Orbax abandons its other reads: their coroutines complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_abandoned_reads():
    """Has them complain here, not in the test that comes next."""
    yield
    time.sleep(0.05)  # for those that still run
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return two_checkpoints(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def copied(saved, tmp_path):
    """The same, to be damaged."""
    return saved[0].copy_to(tmp_path), saved[1]


def numbers(path):
    """The file of a checkpoint that holds its arrays' numbers."""
    [file] = (path / "state" / "d").iterdir()
    assert file.stat().st_size > 30_000  # of the 36,000 bytes of this state
    return file


def flip_bit(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


def assert_falls_back(folder, states):
    assert_same_bits(folder.restore(), states[0])
    assert folder.set_aside() == ["2-0"]
    assert len(folder.reports) == 1
    assert folder.reports[0].startswith("checkpoint 2 is damaged (")
    assert saved_steps(folder.path) == [1]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_flipped_bits_in_the_numbers_are_found(copied, share):
    folder, states = copied
    file = numbers(folder.path / "2")
    flip_bit(file, int(file.stat().st_size * share))
    assert_falls_back(folder, states)


@pytest.mark.parametrize("part", ["params", "opt", "key", "step"])
def test_whole_files_of_other_numbers_are_found(copied, part, monkeypatch):
    """The reader itself notices most damage; what it reads without complaint is still held against fingerprints."""
    folder, states = copied
    state = folder.restore()
    shutil.rmtree(folder.path / "2")
    true = checkpoints._fingerprints
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_fingerprints", lambda fields: true(fields) | {part: true(fields)[part] + 1})
        folder.save(state)
    assert_falls_back(folder, states)
    assert f"({part} differ from what was saved)" in folder.reports[0]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_no_damaged_file_ever_gives_wrong_numbers(copied, damage):
    folder, states = copied
    pristine = folder.workdir / "pristine"
    shutil.copytree(folder.path / "2", pristine)
    noticed = set()
    for name in sorted(file.relative_to(pristine) for file in pristine.rglob("*") if file.is_file()):
        file, size = folder.path / "2" / name, (pristine / name).stat().st_size
        if damage == "delete":
            file.unlink()
        elif damage == "flip":
            flip_bit(file, size // 2)
        else:
            os.truncate(file, size // 2 if damage == "truncate" else 0)
        state, set_aside = folder.restore(), folder.set_aside()
        assert_same_bits(state, states[0 if set_aside else 1])  # some files are not read
        if set_aside:
            noticed.add(name.parts[1] if name.parts[0] == "state" else name.parts[0])
            shutil.rmtree(folder.workdir / "damaged_checkpoints")
        else:
            shutil.rmtree(folder.path / "2")
        shutil.copytree(pristine, folder.path / "2")
    assert len(folder.reports) >= len(noticed)
    assert noticed >= {"d", "manifest.ocdbt", "_METADATA", "identity"}


def test_a_missing_part_is_found(copied):
    folder, states = copied
    shutil.rmtree(folder.path / "2" / "state")
    assert_falls_back(folder, states)


def test_a_step_that_was_damaged_is_saved_again(copied):
    folder, states = copied
    for _ in range(2):
        flip_bit(numbers(folder.path / "2"), 9999)
        folder.save(train(folder.restore(), 1))
        assert_same_bits(folder.restore(), states[1])
    assert folder.set_aside() == ["2-0", "2-1"]


def test_when_all_are_damaged_the_user_is_told(copied):
    folder, _ = copied
    for step in ("1", "2"):
        (folder.path / step / "state" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=r"none of the checkpoints in .* can be read; they were moved to .*damaged_ch"):
        folder.restore()
    assert folder.set_aside() == ["1-0", "2-0"]


def test_restore_params_reads_only_and_falls_back(copied):
    folder, states = copied
    abstract = abstract_on("data:2,fsdp:4").params
    reports = []
    read = functools.partial(restore_params, folder.path, abstract, identity=IDENTITY, report=reports.append)
    for damaged, expected in ((False, states[1]), (True, states[0])):
        if damaged:
            os.truncate(numbers(folder.path / "2"), 10)
        before = contents(folder.workdir)
        params = read()
        assert_same_bits(jax.device_get(params), expected.params)
        assert jax.tree.map(lambda leaf: leaf.sharding, params) == tree_shardings(params, mesh_of("data:2,fsdp:4"))
        assert contents(folder.workdir) == before
        assert len(reports) == damaged
    with pytest.raises(UserError, match="another vocabulary"):
        restore_params(folder.path, abstract, identity={"vocabulary": "b"}, report=reports.append)
    with pytest.raises(UserError, match=r"nowhere holds no checkpoint"):
        restore_params(folder.workdir / "nowhere", abstract, identity=IDENTITY, report=reports.append)
