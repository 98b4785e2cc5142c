"""From examples to global batches: which example stands where is a function of (seed, step) alone.

An example is drawn by (epoch, index), so a checkpoint needs one integer, the step, and a run goes on in the same order
on any number of hosts.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any, Protocol, runtime_checkable

import grain
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from jaxtyping import Int64, PyTree

from core_jax.errors import UserError
from core_jax.sharding import global_batch, local_rows


@runtime_checkable
class Examples(Protocol):
    """Examples at random access, each a pure function of (epoch, index)."""

    def __len__(self) -> int:
        """How many there are in one epoch."""
        ...

    def example(self, epoch: int, index: int) -> dict[str, Any]:
        """A tree of arrays of fixed shapes, with a dict of loss weights under "weights"."""
        ...


class Order:
    """Position in the stream -> (epoch, index): every epoch holds each example once, in an order of its own.

    With `repeats` each stands several times one after the other, as an example of another epoch each time; every epoch
    holds it once all the same.
    """

    def __init__(self, length: int, seed: int, repeats: int = 1):
        # Grain reshuffles epoch e with seed + e: hashed first, or seed 0's second epoch would be seed 1's first.
        hashed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._length, self._repeats = length, repeats
        self._shuffled = grain.MapDataset.range(length).shuffle(seed=hashed)

    def __call__(self, position: int) -> tuple[int, int]:
        """The epoch and the index of the example at this position."""
        place, again = divmod(position, self._repeats)
        index: Any = self._shuffled[place]
        return place // self._length * self._repeats + again, int(index)


def order_of(examples: Examples, seed: int) -> Order:
    """The order of examples, each as often one after the other as their attribute `repeats`, if there is one, says."""
    return Order(len(examples), seed, getattr(examples, "repeats", 1))


def check_batch(examples: Examples, batch_size: int, name: str = "examples") -> None:
    """Raises UserError where there are fewer examples, or whatever their `name` is, than one batch holds."""
    if len(examples) < batch_size:
        raise UserError(
            f"the data gives {len(examples)} {name}, fewer than --global_batch_size={batch_size}: "
            f"give more data, or --global_batch_size={max(len(examples) // 2, 1)} or less"
        )


@dataclasses.dataclass(frozen=True)
class _HostRows:
    """Draws the rows of one host, numbered through all steps; is sent to worker processes."""

    examples: Examples
    order: Order
    batch_size: int
    places: Int64[np.ndarray, " R"]  # of this host's rows in each batch

    def __call__(self, number: int) -> dict[str, Any]:
        step, row = divmod(number, len(self.places))
        return self.examples.example(*self.order(step * self.batch_size + int(self.places[row])))


def training_batches(
    examples: Examples, mesh: Mesh, *, batch_size: int, seed: int, first_step: int, last_step: int, workers: int = 0
) -> Generator[PyTree, None, None]:
    """The batches of steps first_step .. last_step - 1, read ahead and put on the devices in the background.

    Args:
      examples: to draw from, epoch after epoch.
      mesh: where the batches go.
      batch_size: rows of the global batch; this host builds only its own.
      seed: of the order.
      first_step: number of steps already taken.
      last_step: number of steps at which the run ends.
      workers: processes of this host that draw; 0 is threads of this process. The batches are the same.
    Yields:
      Trees of global arrays, sharded by rows. The devices hold two more than the caller: one that waits, one that
      comes.
    """
    places = local_rows(mesh, batch_size)
    rows = len(places)
    draw = _HostRows(examples, order_of(examples, seed), batch_size, places)
    batches = grain.MapDataset.range(first_step * rows, last_step * rows).map(draw).batch(rows)
    # Building a batch is mostly Python, which runs one thread at a time: a second thread only bridges reads.
    reading = batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    flags.FLAGS.mark_as_parsed()  # of absl: Grain asks for some of its own, and nobody has parsed any
    grain.config.update("py_traceback_filtering", "off")  # which writes into the messages of errors
    # Each worker builds whole batches, every n-th one, so that their order is that of one process.
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    reading = reading.mp_prefetch(options, _start_worker).map(functools.partial(global_batch, mesh=mesh))
    iterator = iter(grain.experimental.ThreadPrefetchIterDataset(reading, prefetch_buffer_size=1))
    try:
        yield from iterator
    finally:
        iterator.close()


def choose_workers(wanted: int) -> int:
    """The number of worker processes that is meant by --data_workers.

    Args:
      wanted: a number, or -1: none where the devices are CPUs, whose cores have steps to compute; else one for every
        four cores of the host, 8 at most.
    """
    if wanted >= 0:
        return wanted
    return 0 if jax.default_backend() == "cpu" else min((os.cpu_count() or 1) // 4, 8)


def _start_worker(index: int, count: int) -> None:
    """Ties the life of a worker to that of its parent alone."""
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group: the parent decides when to end
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent():  # also with one that was killed
        parent.join()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()


def evaluation_batches(examples: Examples, mesh: Mesh, *, batch_size: int, passes: int = 1) -> Iterator[PyTree]:
    """Every example of the first `passes` epochs once, in order; what fills up the last batch weighs nothing.

    Args:
      examples: to score; every draw of (epoch, index) is fixed, so scores can be repeated.
      mesh: where the batches go.
      batch_size: rows of the global batch.
      passes: epochs, each with other randomness in its examples.
    Yields:
      Trees of global arrays, sharded by rows.
    """
    count = len(examples) * passes
    places = local_rows(mesh, batch_size)
    rows = len(places)

    def draw(local_position):
        batch, row = divmod(local_position, rows)
        position = batch * batch_size + int(places[row])
        example = examples.example(*divmod(position % count, len(examples)))
        return example if position < count else _weightless(example)

    steps = -(-count // batch_size)
    batches = grain.MapDataset.range(steps * rows).map(draw).batch(rows)
    for batch in batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)):
        yield global_batch(batch, mesh)


def _weightless(example):
    counted = {name: example[name] for name in ("weights", "segments") if name in example}  # images have no segments
    return example | jax.tree.map(np.zeros_like, counted)
