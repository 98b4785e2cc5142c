"""What a model needs, held against what its jaxpr computes, and what devices reach."""

import dataclasses

import jax
import numpy as np
import pytest

from bert_jax.model_flops import useful_flops
from bert_jax.tasks import initial_params, pretraining_loss
from core_jax.flops import count_flops
from core_jax.peaks import device_peak, utilization
from core_jax.topologies import CHIPS
from tests.tiny_bert import CONFIG, model

LENGTHS = ((5, 3, 8), (16,), (7, 2))  # of the pairs in each row; a row has 16 positions
ROOM, PREDICTIONS = 3, 4
BERT = model(attention="reference")


def packed_batch(lengths=LENGTHS, length=16, pairs=ROOM, predictions=PREDICTIONS) -> dict:
    """Rows of pairs of so many tokens, a token to predict in each pair, and the rest of the row empty."""
    segments, positions = np.zeros((2, len(lengths), length), np.int32)
    rooms = {"mlm": predictions, "nsp": pairs}
    weights = {name: np.zeros((len(lengths), room), np.float32) for name, room in rooms.items()}
    for row, sizes in enumerate(lengths):
        whole = np.concatenate([np.full(size, number) for number, size in enumerate(sizes, start=1)])
        segments[row, : len(whole)] = whole
        positions[row, : len(whole)] = np.concatenate([np.arange(size) for size in sizes])
        weights["mlm"][row, : len(sizes)] = weights["nsp"][row, : len(sizes)] = 1
    zeros = {name: np.zeros((len(lengths), room), np.int32) for name, room in rooms.items()}
    return {
        **{"tokens": segments, "segments": segments, "types": segments * 0, "positions": positions},
        **{"mlm_positions": zeros["mlm"], "mlm_labels": zeros["mlm"], "cls_positions": zeros["nsp"]},
        **{"nsp_labels": zeros["nsp"], "weights": weights},
    }


def unpacked_batch(length: int, rows: int = 1) -> dict:
    """Rows that are full of one pair each, with one token to predict."""
    batch = packed_batch(((length,),) * rows, length, pairs=1, predictions=1)
    del batch["positions"], batch["cls_positions"]
    nsp = {"nsp_labels": batch["nsp_labels"][:, 0], "weights": batch["weights"] | {"nsp": np.ones(rows, np.float32)}}
    return batch | nsp


def computed(batch: dict, bert=BERT) -> int:
    """Operations of value and gradient, in the jaxpr."""
    params = jax.eval_shape(initial_params(bert), jax.random.key(0))
    loss = jax.value_and_grad(pretraining_loss(bert, train=True), has_aux=True)
    return count_flops(loss, params, batch, jax.random.key(0))


@pytest.mark.parametrize("batch", [unpacked_batch(16, rows=5), unpacked_batch(7), packed_batch()])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_full_rows_need_exactly_what_is_computed(batch, scan_layers):
    needed, whole = useful_flops(CONFIG, batch)
    assert int(whole) == computed(batch, model(attention="reference", scan_layers=scan_layers))
    assert (needed == whole) == ("positions" not in batch)


def test_an_example_needs_the_same_alone_without_padding_and_packed_with_others():
    alone = sum(computed(unpacked_batch(size)) for row in LENGTHS for size in row)
    assert int(useful_flops(CONFIG, packed_batch())[0]) == alone
    assert int(useful_flops(CONFIG, packed_batch(length=40, predictions=9))[0]) == alone
    unpacked = packed_batch(((11,), (3,)), pairs=1)
    del unpacked["positions"]
    assert int(useful_flops(CONFIG, unpacked)[0]) == sum(computed(unpacked_batch(size)) for size in (11, 3))


def test_products_of_scanned_layers_are_kept_in_bfloat16_too():
    wide, narrow = (model(attention="reference", scan_layers=True, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert computed(unpacked_batch(16), narrow) == computed(unpacked_batch(16), wide)


def test_remat_is_computed_but_not_needed():
    batch = unpacked_batch(16)
    remat = dataclasses.replace(CONFIG, attention="reference", remat="full")
    assert computed(batch, model(attention="reference", remat="full")) > 1.2 * computed(batch)
    assert useful_flops(remat, batch)[0] == useful_flops(CONFIG, batch)[0]


def test_counts_of_large_batches_are_whole_numbers_in_each_row():
    """Sums of squares that float32 could not add up one by one."""
    batch = jax.tree.map(lambda x: np.repeat(x, 4096, axis=0), unpacked_batch(512))
    needed, whole = useful_flops(CONFIG, batch)
    assert float(needed) == pytest.approx(float(whole), rel=1e-6)


def test_kernels_that_hide_their_products(monkeypatch):
    """cuDNN's attention, traced as on a GPU that has it."""
    for name in ("check_cudnn_version", "check_compute_capability"):
        monkeypatch.setattr(f"jax._src.cudnn.fused_attention_stablehlo.{name}", lambda *_: 10**6)
    shape = jax.ShapeDtypeStruct((2, 128, 4, 64), "bfloat16")

    def attention(query, implementation):
        return jax.nn.dot_product_attention(query, query, query, implementation=implementation)

    def gradient(query):
        return jax.vjp(lambda query: attention(query, "cudnn"), query)[1](query)

    forward = count_flops(lambda query: attention(query, "xla"), shape)
    assert count_flops(lambda query: attention(query, "cudnn"), shape) == forward
    assert count_flops(gradient, shape) == forward * (1 + 2.5)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v3", 61.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L40S", 362e12),
        *((chip.device_kind, chip.flops) for chip in CHIPS.values()),
        ("cpu", None),
        ("TPU v5 something", None),
        ("NVIDIA GeForce RTX 3060", None),
    ],
)
def test_peaks_by_the_names_of_devices(kind, peak):
    assert device_peak(kind) == peak


def test_utilization():
    rates = {"model_flops_per_second": 30.0, "steps_per_second": 2.0}
    assert utilization(rates, step_flops=25, peak=100.0) == {"mfu": 0.3, "hardware_flops_utilization": 0.5}
