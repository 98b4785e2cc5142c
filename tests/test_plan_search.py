"""The search for the largest batch, on slices whose memory is a formula."""

import dataclasses

import jax
import pytest

from bert_jax.config import PRESETS
from core_jax.plan import Plan
from core_jax.plan_search import ATTEMPTS, largest_that_fits
from experiments import planning, pretrain
from experiments.console import parse_preset

LIMIT = 16_000
PLAN = Plan(
    topology="v5e:1x1",
    chips=1,
    fits=False,
    hbm_limit_bytes=LIMIT,
    peak_bytes=None,
    arguments_bytes=None,
    temporary_bytes=None,
    flops=0.0,
    model_flops=0.0,
    hbm_bytes_accessed=None,
    collectives={},
    ici_bytes=0,
    dcn_bytes=0,
    compute_seconds=0.0,
    memory_seconds=None,
    network_seconds=0.0,
    step_seconds_bound=None,
    bound="memory",
    mfu_bound=None,
    compile_seconds=0.0,
    message="",
)


def search(memory, start):
    tried = []

    def plan_rows(rows):
        tried.append(rows)
        peak = memory(rows)
        if peak > LIMIT:
            return PLAN
        return dataclasses.replace(PLAN, fits=True, peak_bytes=int(peak), arguments_bytes=int(memory(0)))

    return largest_that_fits(plan_rows, start), tried


@pytest.mark.parametrize("start", [1, 8, 32, 64, 1000])
@pytest.mark.parametrize(
    "memory",
    [
        lambda rows: 500 + 120 * rows,
        lambda rows: 9000 + 31 * rows,
        lambda rows: 500 + 100 * rows + 0.5 * rows**2,  # grows faster than evenly
        lambda rows: 500 + 1500 * rows**0.5,  # slower
        lambda rows: 500 + 120 * min(rows, 80) + 30 * max(rows - 80, 0),  # a compiler that saves once it is tight
    ],
)
def test_the_answer_fits_and_hardly_more_does(memory, start):
    found, tried = search(memory, start)
    assert len(tried) == len(set(tried)) <= ATTEMPTS
    assert found.rows is not None
    assert found.plan.fits
    assert memory(found.rows) <= LIMIT
    assert memory(int(found.rows * 1.2) + 1) > LIMIT


def test_even_growth_needs_three_compilations():
    assert len(search(lambda rows: 500 + 120 * rows, 32)[1]) <= 3


def test_where_one_row_does_not_fit_there_is_no_answer():
    found, tried = search(lambda rows: 20_000 + rows, 32)
    assert (found.rows, found.plan.fits, found.too_many) == (None, False, 1)
    assert tried[-1] == 1


def test_a_search_needs_a_slice(capsys):
    with pytest.raises(SystemExit) as stop:
        pretrain.main(["bert-tiny", "--plan_search=True"])
    assert stop.value.code == 2
    assert "needs a slice to search on, such as --plan=v5e-8" in " ".join(
        capsys.readouterr().err.replace("│", "").split()
    )


def test_every_remat_is_searched_and_the_fastest_comes_first(monkeypatch, capsys):
    """With a compiler for which a row needs half the memory with each step of remat, and takes a little longer."""
    saves = {"none": 1, "dots": 2, "full": 4}
    monkeypatch.setattr(planning, "describe_devices", lambda topology: jax.devices()[: topology.chips])

    def plan(config):
        rows = config.training.global_batch_size // 8
        peak = 1000 + 100 * rows // saves[config.model.remat]
        seconds = (1 + 0.01 * rows) * saves[config.model.remat] ** 0.1
        known = {"peak_bytes": peak, "arguments_bytes": 1000, "step_seconds_bound": seconds, "mfu_bound": 0.5}
        return dataclasses.replace(PLAN, fits=True, **known) if peak <= LIMIT else PLAN

    monkeypatch.setattr(planning, "plan_pretraining", plan)
    config = parse_preset(["bert-tiny", "--plan=v5e-8", "--global_batch_size=64"], PRESETS, "bert-tiny", "")
    found = planning.search(config)
    assert [one["remat"] for one in found] == ["full", "dots", "none"]
    for one in found:
        assert one["rows"] == pytest.approx(150 * saves[one["remat"]], rel=0.1)
        assert one["global_batch_size"] == 8 * one["rows"]
        rate = one["global_batch_size"] * config.text.sequence_length / one["step_seconds_bound"]
        assert one["tokens_per_second_bound"] == pytest.approx(rate)
    printed = capsys.readouterr().out
    assert "--remat=dots, 8 rows a replica: fits" in printed
    assert f"{found[0]['global_batch_size']:,}" in printed


def test_a_remat_with_which_not_one_row_fits_says_so():
    nothing = {"remat": "none", "rows": 0, "global_batch_size": 0, "tokens_per_second_bound": 0.0, "peak_bytes": None}
    assert "not one row fits" in planning.describe_largest(nothing)
