"""Seeds that are trained side by side on slices of a mesh: each learns what it would learn alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.finetuning import grafted
from bert_jax.labelled_rows import pack_texts
from bert_jax.seed_batches import pack_seeds
from core_jax.dropout import drop_units
from core_jax.sharding import BATCH_AXES, by_path, constrain, global_batch, parse_mesh, tree_shardings
from core_jax.side_by_side import (
    compile_side_by_side,
    move_to_slice,
    split_mesh,
    stack,
    stacked_batch,
    take,
    values_of_run,
)
from core_jax.traffic import list_exchanges
from core_jax.train import State, abstract_state, compile_step, create_state, make_step
from experiments import finetune, side_by_side
from tests.labelled_words import HEADS, LENGTH, examples
from tests.tiny_tuning import flags, lines, stop_after, summary, write_records, write_start

SEEDS = (3, 8)
CHANGES = {"mesh": "data:4", "epochs": 2, "learning_rate": 0.005, "log_every": 1}


def numbers(state: State) -> dict[str, np.ndarray]:
    fields = {"params": state.params, "opt": state.opt, "key": jax.random.key_data(state.key), "step": state.step}
    return {path: np.asarray(leaf) for path, leaf in by_path(fields).items()}


def loss(params: Any, batch: dict[str, Any], key: Any):
    """A network with dropout, its hidden states pinned to the mesh."""
    hidden = constrain(jnp.tanh(batch["x"] @ params["mlp"]["up"]["kernel"]), BATCH_AXES, None)
    hidden = drop_units(hidden, key, 0.3)
    errors = (hidden @ params["mlp"]["down"]["kernel"])[:, 0] - batch["y"]
    return jnp.mean(errors**2), {"size": (jnp.sum(errors**2), jnp.float32(len(errors)))}


def init(key: Any) -> Any:
    up, down = jax.random.normal(key, (2, 4, 8))  # of 8 units and 2 outputs, of which one is asked for
    return {"mlp": {"up": {"kernel": up}, "down": {"kernel": down[:2].T}}}


def test_a_step_side_by_side_is_the_step_of_each():
    mesh, optimizer, random = parse_mesh("data:2,fsdp:2,tensor:2"), optax.adam(0.1), np.random.default_rng(0)
    split, shapes, step = split_mesh(mesh, 2), abstract_state(init, optimizer), make_step(loss, optimizer)
    draws = [
        [{"x": random.normal(size=(8, 4)).astype(np.float32), "y": np.float32(random.normal(size=8))} for _ in SEEDS]
        for _ in range(3)
    ]
    alone, measured = [create_state(init, optimizer, mesh, seed) for seed in SEEDS], [[], []]
    together = stack([move_to_slice(state, split, place) for place, state in enumerate(alone)], split)
    for place, state in enumerate(alone):
        jax.tree.map(np.testing.assert_array_equal, numbers(take(together, place, mesh)), numbers(state))
    with jax.set_mesh(mesh):
        compiled = compile_step(step, tree_shardings(shapes, mesh))
        for place in range(2):
            for batches in draws:
                alone[place], metrics = compiled(alone[place], global_batch(batches[place], mesh))
                measured[place].append(metrics)
    with jax.set_mesh(split):
        compiled = compile_side_by_side(step, shapes, split)
        for number, batches in enumerate(draws):
            together, found = compiled(together, stacked_batch(batches, split))
            for place in range(2):
                for name, ratio in measured[place][number].items():
                    np.testing.assert_allclose(found[f"{place}/{name}"], ratio, rtol=1e-5)
            both = np.mean([measured[place][number]["loss"][0] for place in range(2)])
            np.testing.assert_allclose(found["loss"][0] / found["loss"][1], both, rtol=1e-5)
        for place, state in enumerate(alone):
            ours, theirs = numbers(take(together, place, mesh)), numbers(state)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), ours, theirs)
    assert not np.allclose(alone[0].params["mlp"]["up"]["kernel"], alone[1].params["mlp"]["up"]["kernel"])


def test_seeds_have_nothing_to_say_to_each_other():
    optimizer, mesh = optax.adam(0.1), parse_mesh("data:2")
    split, alone = split_mesh(mesh, 2), create_state(init, optimizer, mesh, 0)
    together = stack([move_to_slice(alone, split, place) for place in range(2)], split)
    batch = stacked_batch([{"x": np.zeros((8, 4), np.float32), "y": np.zeros(8, np.float32)}] * 2, split)
    with jax.set_mesh(split):
        step: Any = compile_side_by_side(make_step(loss, optimizer), abstract_state(init, optimizer), split)
        program = step.lower(together, batch).compile().as_text()
    shapes = {shape for exchange in list_exchanges(program) for shape in exchange.shapes}
    assert shapes  # the sums of the metrics,
    assert shapes <= {(), (1,)}  # which are numbers, and nothing else


def test_values_of_each_run():
    values = {"loss": 2.0, "steps_per_second": 5.0, "useful_tokens_per_second": 900.0, "useful_positions": 0.6}
    values |= {"0/loss": 1.0, "1/loss": 3.0, "0/useful_positions": 0.8, "1/useful_positions": 0.4}
    first = {"loss": 1.0, "useful_positions": 0.8, "steps_per_second": 5.0, "useful_tokens_per_second": 600.0}
    assert values_of_run(values, 0) == pytest.approx(first)
    assert values_of_run(values, 1)["useful_tokens_per_second"] == pytest.approx(300)


@pytest.mark.parametrize("head", HEADS)
def test_each_seed_has_its_own_examples_in_rows_of_one_shape(head):
    data = examples(head).texts
    lengths = np.array([max(len(data.tokens[text]) for text in data.members(np.array([i]))) for i in range(len(data))])
    drawn = [np.argsort(lengths)[:6], np.argsort(lengths)[-6:]]  # short and long ones, so that shapes differ alone
    packed = pack_seeds(data, drawn, LENGTH, 2, SEEDS)
    assert len({str(jax.tree.map(np.shape, batch)) for batch in packed}) == 1
    for batch, own, seed in zip(packed, drawn, SEEDS, strict=True):
        alone = pack_texts(data, own, LENGTH, 2, seed)
        rows, positions = alone["tokens"].shape
        for name in ("tokens", "segments", "types", "positions"):
            np.testing.assert_array_equal(batch[name][:rows, :positions], alone[name])
        assert not batch["segments"][rows:].any()
        assert not batch["segments"][:, positions:].any()
        for name, weights in alone["weights"].items():
            assert batch["weights"][name].sum() == weights.sum()
        if head == "choice":
            for found in (batch, alone):
                found["texts_of_groups"] = found["texts"].ravel()[found["choices"][: len(own)]]
            np.testing.assert_array_equal(batch["texts_of_groups"], alone["texts_of_groups"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a starting point, texts, and the runs of two seeds, each alone."""
    folder = tmp_path_factory.mktemp("seeds")
    write_start(folder / "start")
    write_records(folder / "classification.jsonl", "classification")
    for seed in range(2):
        assert finetune.main(flags("classification", folder, folder / f"seed={seed}", **CHANGES, seed=seed)) == 0
    return folder


def same_as_alone(place, workdir):
    """Holds the folders of two seeds against those of the same seeds alone."""
    for seed in range(2):
        folders = workdir / f"seed={seed}", place / f"seed={seed}"
        for split in ("train", "validation"):
            ours, theirs = (lines(folder, split) for folder in folders)
            assert [line["step"] for line in ours] == [line["step"] for line in theirs]
            losses = ([line["loss"] for line in found] for found in (ours, theirs))
            np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
            assert ours[0].keys() == theirs[0].keys()
        ours, theirs = map(summary, folders)
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        assert ours["best_step"] == theirs["best_step"]
        assert ours["by_class"] == theirs["by_class"]


@pytest.mark.slow
def test_seeds_side_by_side_are_those_of_one_after_the_other(place, tmp_path, capsys):
    assert finetune.main([*flags("classification", place, tmp_path / "runs", **CHANGES), "--seeds=3"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "seeds 0, 1 side by side, each on 2 of the 4 devices" in output  # 3 do not divide 4: one is left over
    assert "3 runs: mean ± standard deviation" in output
    assert summary(tmp_path / "runs" / "seed=2")["steps"] == 4
    same_as_alone(place, tmp_path / "runs")


@pytest.mark.slow
def test_stopped_side_by_side_it_goes_on_one_after_the_other(place, tmp_path, monkeypatch, capsys):
    stop_after(monkeypatch, 4)
    again = [*flags("classification", place, tmp_path, **CHANGES), "--seeds=2"]
    finetune.main(again)
    assert "all is saved" in capsys.readouterr().out
    assert not (tmp_path / "seed=0" / "summary.json").exists()
    monkeypatch.undo()
    assert finetune.main([*again, "--mesh=data:1"]) == 0
    assert "side by side" not in capsys.readouterr().out
    same_as_alone(place, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["diverges", "memory"])
def test_what_fails_side_by_side_goes_on_one_after_the_other(place, tmp_path, monkeypatch, capsys, trouble):
    drawn = side_by_side.batches_of_seeds

    def spoilt(*arguments, **options):
        for number, batch in enumerate(drawn(*arguments, **options)):
            if number == 3:  # after the first epoch
                if trouble == "memory":
                    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
                batch["weights"]["label"] = batch["weights"]["label"].at[1].set(jnp.nan)
            yield batch

    monkeypatch.setattr(side_by_side, "batches_of_seeds", spoilt)
    assert finetune.main([*flags("classification", place, tmp_path, **CHANGES), "--seeds=2"]) == 0
    reason = {"diverges": "the loss became nan by step 4", "memory": "memory does not hold"}[trouble]
    output = " ".join(capsys.readouterr().out.split())
    assert reason in output
    assert "one after the other, from their last checkpoints" in output
    same_as_alone(place, tmp_path)


def test_a_starting_point_outlives_a_run_that_began_with_it():
    mesh = parse_mesh("data:1")
    source = {"bert": {"kernel": jax.device_put(jnp.ones((4, 4)), NamedSharding(mesh, P()))}}
    for _ in range(2):
        started, _ = grafted(source, source, mesh)
        np.testing.assert_array_equal(started["bert"]["kernel"], np.ones((4, 4)))
        started["bert"]["kernel"].delete()  # what a step does with the state that it is given
