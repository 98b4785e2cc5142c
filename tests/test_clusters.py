"""Where there is a cluster, from the environment that schedulers leave, and where there is none."""

import pytest
from jax._src import clusters

from core_jax.clusters import ADDRESS, COUNT, INDEX, Cluster, find_cluster
from core_jax.errors import UserError
from experiments import evaluate, pretrain

SLURM = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    for name in (ADDRESS, COUNT, INDEX, "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", *SLURM, *OPEN_MPI):
        monkeypatch.delenv(name, raising=False)


def give(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({ADDRESS: "host0:8476", COUNT: "3", INDEX: "2"}, Cluster(2, 3, "host0:8476")),
        ({ADDRESS: "host0:8476", COUNT: "1", INDEX: "0"}, None),
        (SLURM, Cluster(1, 2, None)),
        (SLURM | {ADDRESS: "node01:9000"}, Cluster(1, 2, "node01:9000")),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # the shell of an allocation, not srun
        (OPEN_MPI, Cluster(3, 4, None)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod that is no indexed job
    ],
)
def test_places(given, expected, monkeypatch):
    give(monkeypatch, given)
    assert find_cluster() == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({ADDRESS: "host0:8476"}, "set all three on every host"),
        ({ADDRESS: "host0:8476", COUNT: "2"}, f"but not {INDEX}"),
        ({COUNT: "2", INDEX: "0"}, f"but not {ADDRESS}"),
        ({ADDRESS: "host0:8476", COUNT: "2", INDEX: "2"}, "numbers 0 to 1"),
        ({ADDRESS: "host0:8476", COUNT: "two", INDEX: "0"}, f"{COUNT}=two"),
        ({ADDRESS: "host0", COUNT: "2", INDEX: "0"}, "HOST:PORT"),
    ],
)
def test_half_given_settings_are_refused(given, message, monkeypatch):
    give(monkeypatch, given)
    with pytest.raises(UserError, match=message):
        find_cluster()


@pytest.mark.parametrize(("hosts", "expected"), [("localhost", None), ("host0,host1", Cluster(1, 2, None))])
def test_a_tpu_machine_is_a_cluster_only_with_others(hosts, expected, monkeypatch):
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    give(monkeypatch, {"TPU_WORKER_HOSTNAMES": hosts, "TPU_WORKER_ID": str(len(hosts.split(",")) - 1)})
    give(monkeypatch, {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"})
    assert find_cluster() == expected


def test_a_tpu_machine_without_metadata_is_on_its_own(monkeypatch):
    def unreachable():
        raise ConnectionError("metadata.google.internal")

    monkeypatch.setattr(clusters.GceTpuCluster, "is_env_present", unreachable)
    assert find_cluster() is None


@pytest.mark.parametrize("command", [pretrain, evaluate])
def test_help_needs_no_cluster(command, monkeypatch, capsys):
    monkeypatch.setenv(ADDRESS, "host0:8476")
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert "--silence_seconds" in capsys.readouterr().out.replace("-seconds", "_seconds")
    with pytest.raises(UserError, match="set all three"):
        command.main([] if command is pretrain else ["--init=nowhere"])
