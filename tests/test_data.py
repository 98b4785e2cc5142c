import multiprocessing

import jax
import numpy as np
import pytest

from core_jax import data
from core_jax.data import Order, check_batch, evaluation_batches, training_batches
from core_jax.errors import UserError
from core_jax.sharding import parse_mesh
from tests.numbered_examples import Mistaken, Numbers

MESH = parse_mesh("data:8")


def on_host(batches):
    return [jax.tree.map(np.asarray, batch) for batch in batches]


def train(length=20, *, first_step=0, last_step=12, seed=0, workers=0):
    options = {"batch_size": 8, "seed": seed, "first_step": first_step, "last_step": last_step, "workers": workers}
    return on_host(training_batches(Numbers(length), MESH, **options))


def assert_same(found, expected):
    assert len(found) == len(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def orders(length, seed, epochs):
    order = Order(length, seed)
    return [[order(epoch * length + position) for position in range(length)] for epoch in range(epochs)]


@pytest.mark.parametrize("length", [1, 7, 100])
def test_every_epoch_is_a_permutation(length):
    for epoch, drawn in enumerate(orders(length, seed=3, epochs=3)):
        assert {number for number, _ in drawn} == {epoch}
        assert sorted(index for _, index in drawn) == list(range(length))


def test_every_epoch_of_every_seed_has_its_own_order():
    """Among them: seed 0's second epoch is not seed 1's first."""
    every = [tuple(index for _, index in drawn) for seed in range(5) for drawn in orders(50, seed, epochs=5)]
    assert len(set(every)) == len(every) == 25
    assert tuple(range(50)) not in every


def test_order_is_a_function_of_the_position_alone():
    order = Order(50, 1)
    positions = [77, 3, 120, 3]
    assert [order(position) for position in positions] == [Order(50, 1)(position) for position in positions]


def test_repeats_stand_together_as_examples_of_different_epochs():
    order = Order(7, 1, repeats=3)
    drawn = [order(position) for position in range(2 * 3 * 7)]
    once = Order(7, 1)
    assert [index for _, index in drawn] == [once(place)[1] for place in range(14) for _ in range(3)]
    assert {tuple(epoch for epoch, _ in drawn[start : start + 3]) for start in range(0, 42, 3)} == {
        (0, 1, 2),
        (3, 4, 5),
    }
    assert len(set(drawn)) == 6 * 7


def test_batches_follow_the_order_across_epochs():
    drawn = [pair for epoch in orders(20, seed=0, epochs=5) for pair in epoch][:96]
    batches = train()
    pairs = [pair for batch in batches for pair in zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)]
    assert pairs == drawn


@pytest.mark.parametrize("first_step", [0, 1, 5, 11, 12])
def test_a_stream_that_starts_later_is_the_tail(first_step):
    assert_same(train(first_step=first_step), train()[first_step:])


@pytest.mark.parametrize(("workers", "first_step"), [(1, 0), (3, 5)])
def test_workers_give_the_same_batches(workers, first_step):
    assert_same(train(first_step=first_step, workers=workers), train(first_step=first_step))


@pytest.mark.parametrize("workers", [0, 1])
def test_mistakes_in_workers_are_those_of_the_user(workers):
    options = {"batch_size": 8, "seed": 0, "first_step": 0, "last_step": 1, "workers": workers}
    with pytest.raises(UserError, match=r"^the text is damaged$"):
        next(training_batches(Mistaken(20), MESH, **options))


def test_workers_end_with_their_iterator():
    options = {"batch_size": 8, "seed": 0, "first_step": 0, "last_step": 1000, "workers": 2}
    batches = training_batches(Numbers(20), MESH, **options)
    for _ in range(2):  # the second is from the second worker
        next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert multiprocessing.active_children() == []


def test_other_seeds_give_other_batches():
    assert any((a["index"] != b["index"]).any() for a, b in zip(train(seed=0), train(seed=1), strict=True))


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_hosts_together_build_the_batches_of_one(hosts, kind, monkeypatch):
    def build():
        if kind == "training":
            return train()
        return on_host(evaluation_batches(Numbers(21), MESH, batch_size=8))

    expected = build()
    monkeypatch.setattr(data, "global_batch", lambda local, mesh: local)
    parts = []
    for host in range(hosts):
        monkeypatch.setattr(data, "local_rows", lambda mesh, size, host=host: np.split(np.arange(size), hosts)[host])
        parts.append(build())
    assert all(len(batch["index"]) == 8 // hosts for part in parts for batch in part)
    joined = [jax.tree.map(lambda *rows: np.concatenate(rows), *batches) for batches in zip(*parts, strict=True)]
    assert_same(joined, expected)


@pytest.mark.parametrize("length", [1, 5, 8, 16, 21])
@pytest.mark.parametrize("passes", [1, 3])
def test_evaluation_sees_every_example_once(length, passes):
    examples = Numbers(length)
    batches = on_host(evaluation_batches(examples, MESH, batch_size=8, passes=passes))
    assert len(batches) == -(-length * passes // 8)
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in ("index", "epoch", "segments")}
    score = np.concatenate([batch["weights"]["score"] for batch in batches])
    tokens = np.concatenate([batch["weights"]["tokens"] for batch in batches])
    assert len(score) % 8 == 0
    real = length * passes
    seen = list(zip(rows["epoch"][:real].tolist(), rows["index"][:real].tolist(), strict=True))
    assert seen == [(epoch, index) for epoch in range(passes) for index in range(length)]
    np.testing.assert_array_equal(score[:real], rows["index"][:real] + 1)
    assert score.sum() == passes * length * (length + 1) / 2
    assert tokens.sum() == 2 * real
    assert not score[real:].any()
    assert not tokens[real:].any()
    assert not rows["segments"][real:].any()


def test_evaluation_can_be_repeated():
    once, again = (on_host(evaluation_batches(Numbers(21), MESH, batch_size=8)) for _ in range(2))
    assert_same(once, again)


def test_batches_are_spread_over_the_devices():
    batch = next(training_batches(Numbers(20), MESH, batch_size=16, seed=0, first_step=0, last_step=1))
    assert [shard.data.shape for shard in batch["segments"].addressable_shards] == [(2, 3)] * 8


def test_a_batch_larger_than_the_data_is_refused():
    check_batch(Numbers(8), 8)
    with pytest.raises(UserError, match=r"gives 7 examples, fewer than --global_batch_size=8: .*--global_batch_size=3"):
        check_batch(Numbers(7), 8)
