"""Plans of packed rows: what stands where, from lengths alone."""

import collections
import concurrent.futures
import itertools
import pickle

import numpy as np
import pytest

from core_jax.packing import PackedEpochs, largest_sum, lay_out, plan_rows

CASES = {  # lengths, capacity, maximum per row
    "mixed": (np.random.default_rng(0).integers(1, 129, 5000), 128, 16),
    "short": (np.random.default_rng(1).integers(1, 20, 5000), 512, 64),
    "few a row": (np.random.default_rng(2).integers(1, 20, 5000), 512, 3),
    "nearly full": (np.random.default_rng(3).integers(60, 65, 300), 64, 8),
    "all alike": (np.full(1001, 30), 128, 16),
    "one": (np.array([7]), 8, 1),
    "one a row": (np.array([3, 2, 5]), 8, 1),
}


def plan_of(case, seed=0, **options):
    lengths, capacity, maximum = CASES[case]
    return plan_rows(lengths, capacity, maximum, rng=np.random.default_rng(seed), **options)


def rows_of(plan):
    return [plan.members(row).tolist() for row in range(len(plan))]


def check_rows(rows, case):
    lengths, capacity, maximum = CASES[case]
    for row in rows:
        assert 1 <= len(row) <= maximum
        assert lengths[row].sum() <= capacity


def best_fit_decreasing(lengths, capacity, maximum):
    """The same rule, example after example: how many rows of which contents."""
    rows = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [row for row in rows if sum(row) + length <= capacity and len(row) < maximum]
        if fitting:
            max(fitting, key=sum).append(length)
        else:
            rows.append([length])
    return rows


@pytest.mark.parametrize("case", CASES)
def test_each_example_is_once_in_a_row_that_has_room(case):
    plan = plan_of(case)
    rows = rows_of(plan)
    check_rows(rows, case)
    assert sorted(itertools.chain(*rows)) == list(range(len(CASES[case][0])))
    assert plan.tokens == CASES[case][0].sum()


@pytest.mark.parametrize("case", ["short", "nearly full", "all alike", "one a row", "few a row"])
def test_as_many_rows_as_example_by_example(case):
    lengths, capacity, maximum = CASES[case]
    lengths = lengths[:1001]
    plan = plan_rows(lengths, capacity, maximum, rng=np.random.default_rng(0))
    assert len(plan) == len(best_fit_decreasing(lengths, capacity, maximum))


def test_little_padding_where_lengths_vary():
    lengths, capacity, _ = CASES["mixed"]
    plan = plan_of("mixed")
    assert lengths.sum() / (len(plan) * capacity) > 0.99


@pytest.mark.parametrize("case", CASES)
def test_plans_repeat_and_seeds_exchange_examples_of_one_length(case):
    assert rows_of(plan_of(case)) == rows_of(plan_of(case))
    lengths, other = CASES[case][0], plan_of(case, seed=1)
    patterns = [collections.Counter(tuple(lengths[row]) for row in rows_of(plan)) for plan in (plan_of(case), other)]
    assert patterns[0] == patterns[1]
    if len(lengths) > 100:
        assert rows_of(plan_of(case)) != rows_of(other)


@pytest.mark.parametrize("case", ["mixed", "short", "all alike"])
@pytest.mark.parametrize("extra", [1, 7, 100])
def test_more_rows_than_needed_split_some(case, extra):
    needed = len(plan_of(case))
    rows = rows_of(plan_of(case, rows=needed + extra))
    check_rows(rows, case)
    assert len(rows) == needed + extra
    assert sorted(itertools.chain(*rows)) == list(range(len(CASES[case][0])))


@pytest.mark.parametrize("case", ["mixed", "short", "nearly full"])
def test_fewer_rows_than_needed_leave_out_the_emptiest(case):
    lengths, whole = CASES[case][0], rows_of(plan_of(case))
    plan = plan_of(case, rows=len(whole) - 3)
    rows = rows_of(plan)
    check_rows(rows, case)
    kept = list(itertools.chain(*rows))
    assert len(rows) == len(whole) - 3
    assert len(kept) == len(set(kept))
    fullness = sorted(int(lengths[row].sum()) for row in whole)
    assert plan.tokens == lengths[kept].sum() == sum(fullness[3:])


def test_as_many_rows_as_examples_and_no_more():
    lengths, _, _ = CASES["all alike"]
    assert all(len(row) == 1 for row in rows_of(plan_of("all alike", rows=len(lengths))))
    with pytest.raises(ValueError, match="more than examples"):
        plan_of("all alike", rows=len(lengths) + 1)


@pytest.mark.parametrize("lengths", [[3, 9], [0, 3]])
def test_lengths_that_do_not_fit(lengths):
    with pytest.raises(ValueError, match="in rows of 8"):
        plan_rows(np.array(lengths), 8, 2, rng=np.random.default_rng(0))
    with pytest.raises(IndexError):
        plan_of("one").members(1)


def drawn_lengths(epoch):
    return np.random.default_rng(epoch).integers(1, 65, 400)


def packed_epochs(reserve=0.05):
    return PackedEpochs(drawn_lengths, capacity=64, maximum_per_row=8, seed=3, reserve=reserve)


def test_epochs_have_the_same_number_of_rows_and_random_access():
    epochs = packed_epochs()
    places = [(epoch, row) for epoch in range(5) for row in range(len(epochs))]
    found = {place: epochs.members(*place).tolist() for place in places}
    for epoch in range(5):
        rows = [found[epoch, row] for row in range(len(epochs))]
        assert sorted(itertools.chain(*rows)) == list(range(400))
        assert all(drawn_lengths(epoch)[row].sum() <= 64 for row in rows)
    assert found[0, 0] != found[1, 0]
    # In any order, by threads, in another process.
    shuffled = [places[i] for i in np.random.default_rng(0).permutation(len(places))]
    other = packed_epochs()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rows = pool.map(lambda place: other.members(*place).tolist(), shuffled)
        again = dict(zip(shuffled, rows, strict=True))
    assert again == found
    copy = pickle.loads(pickle.dumps(epochs))
    assert len(copy) == len(epochs)
    assert copy.members(3, 5).tolist() == found[3, 5]


def test_without_a_reserve_few_examples_are_left_out():
    epochs = packed_epochs(reserve=0.0)
    counts = [sum(len(epochs.members(epoch, row)) for row in range(len(epochs))) for epoch in range(20)]
    assert counts[0] == 400
    assert min(counts) < 400  # some epoch needs more rows than the first


def test_lay_out_by_hand():
    segments, positions, starts = lay_out([3, 1, 2], 8)
    assert segments.tolist() == [1, 1, 1, 2, 3, 3, 0, 0]
    assert positions.tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert starts.tolist() == [0, 3, 4]
    with pytest.raises(ValueError, match="9 tokens in a row of 8"):
        lay_out([4, 5], 8)


@pytest.mark.parametrize(("capacity", "maximum", "shortest"), [(12, 2, 1), (13, 4, 3), (10, 9, 2), (9, 1, 5)])
def test_largest_sum_is_that_of_all_rows_tried(capacity, maximum, shortest):
    worth = np.random.default_rng(capacity).integers(0, 9, capacity + 1).tolist()
    rows = itertools.chain.from_iterable(
        itertools.combinations_with_replacement(range(shortest, capacity + 1), count) for count in range(1, maximum + 1)
    )
    expected = max(sum(worth[length] for length in row) for row in rows if sum(row) <= capacity)
    assert largest_sum(lambda length: worth[length], capacity, maximum, shortest) == expected
