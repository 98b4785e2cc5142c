"""Which cluster this process is a part of, if any: read from its environment, before jax touches a device."""

import dataclasses
import os
import re
from typing import Any

from jax._src import clusters  # jax's own detection; it has no public name

from core_jax.errors import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place of this process among several."""

    process_index: int
    process_count: int
    coordinator: str | None  # HOST:PORT of process 0; None: jax asks the scheduler


def find_cluster() -> Cluster | None:
    """Finds the cluster from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID, or from the scheduler.

    Schedulers are those that jax knows: Slurm, Open MPI, Cloud TPU, GKE, Kubernetes jobs. Only a Cloud TPU machine is
    asked over the network.

    Returns:
      The place of this process; None where it is the only one.
    Raises:
      UserError: the variables are given in part, and no scheduler knows the rest, or they make no sense.
    """
    given = {name: os.environ[name].strip() for name in (ADDRESS, COUNT, INDEX) if os.environ.get(name, "").strip()}
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    scheduler: Any = _scheduler() if missing else None
    if missing and scheduler is None:
        if given:
            raise UserError(
                f"{' and '.join(given)} given, but not {' and '.join(missing)}: set all three on every host "
                f"(such as {ADDRESS}=host0:8476 {COUNT}=2 {INDEX}=0), or none to run on this host alone"
            )
        return None
    count = _number(COUNT, given[COUNT]) if COUNT in given else scheduler.get_process_count()
    if count < 2:
        return None
    index = _number(INDEX, given[INDEX]) if INDEX in given else scheduler.get_process_id()
    if index >= count:
        raise UserError(f"{INDEX}={index}: {COUNT}={count} processes have the numbers 0 to {count - 1}")
    if ADDRESS in given and not re.fullmatch(r".+:\d+", given[ADDRESS]):
        raise UserError(f"{ADDRESS}={given[ADDRESS]}: expected HOST:PORT of process 0, such as host0:8476")
    return Cluster(index, count, given.get(ADDRESS))


def _number(name, text):
    if not text.isdecimal():
        raise UserError(f"{name}={text}: expected a whole number, 0 or more")
    return int(text)


def _scheduler():
    """The scheduler that started this process; None on a single host."""
    for kind in clusters.ClusterEnv._cluster_types:
        if kind.opt_in_only_method or not _may_be_several(kind):
            continue
        try:
            if kind.is_env_present():
                return kind
        except OSError:  # a TPU machine that has no metadata server, such as a notebook's, is on its own
            continue
    return None


def _may_be_several(kind):
    if kind is clusters.SlurmCluster:
        # Inside an allocation, but not started by srun: the allocation's tasks are others, which will not come.
        return os.environ.get("SLURM_STEP_NUM_TASKS") != "1"
    if kind is clusters.K8sCluster:
        return "JOB_COMPLETION_INDEX" in os.environ  # any other pod is on its own, and has no need to ask the cluster
    return True
