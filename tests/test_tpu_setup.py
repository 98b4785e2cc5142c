"""The whole life of a pod against a stand-in for gcloud, whose hosts are folders and whose programs really run."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.simulated_pod import Pod


@pytest.fixture
def pod(tmp_path) -> Iterator[Pod]:
    pod = Pod(tmp_path)
    yield pod
    pod.close()


def read_until(process: subprocess.Popen, expected: str) -> str:
    """What a command prints until a line says so."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.strip() == expected:
            return printed
    raise AssertionError(f"{expected!r} did not come:\n{printed}")


def test_a_life(pod):
    """Ordered, installed once, run, its logs kept, listed, and deleted when the right name is typed."""
    pod.create(2, "--spot")
    assert [path.name for path in pod.hosts] == ["w-0", "w-1"]
    (pod.repository / "not committed.txt").touch()
    command = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES"; ls; exit 7'
    code, output = pod.type("run", "pod", "--", "bash", "-c", command)
    assert code == 7, output
    assert "1 files differ from the commit" in output
    assert "0 of 2" in output  # of the first host
    assert "1 of 2" not in output
    assert "pyproject.toml" in output
    assert "not committed.txt" not in output.partition("0 of 2")[2]
    [logs] = pod.logs()
    assert [logs[f"worker-{index}.log"].splitlines()[0] for index in range(2)] == ["0 of 2", "1 of 2"]
    assert pod.type("install", "pod")[1].count("installed before") == 2
    for home in pod.hosts:
        assert len((home / "pip.log").read_text().splitlines()) == 1
        assert "tpu_setup/constraints.txt" in (home / "pip.log").read_text()
    pod.commit()  # the run was of another commit
    assert pod.type("logs", "pod", "--worker=1")[1].splitlines()[0] == "1 of 2"
    status = pod.type("status")[1]
    assert [line.split()[:4] for line in status.splitlines()[1:]] == [
        ["ACTIVE", "no", "order", "pod"],
        ["READY", "yes", "hosts", "pod"],
    ]
    code, output = pod.type("delete", "pod", answer="pot\n")
    assert (code, len(pod.hosts)) == (2, 2), output
    code, output = pod.type("delete", "pod", answer="pod\n")
    assert (code, len(pod.hosts)) == (0, 0), output
    assert len(pod.type("status")[1].splitlines()) == 1


@pytest.mark.slow
def test_a_host_that_fails_ends_the_others(pod):
    pod.create(2)
    command = '[ "$JAX_PROCESS_ID" = 1 ] && exit 3; trap "echo told; exit 143" TERM; while :; do sleep 0.1; done'
    code, output = pod.type("run", "pod", "--", "bash", "-c", command)
    assert code == 3, output
    assert "w-1 ended with 3" in output
    assert "told" in output


def test_a_lost_connection_loses_no_line(pod):
    pod.create(2)
    pod.fail("ssh", "2")
    code, output = pod.type(
        "run", "pod", "--", "bash", "-c", "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.2; done"
    )
    assert code == 0, output
    assert [line for line in output.splitlines() if line.startswith("line")] == [f"line {i}" for i in range(1, 9)]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signals_reach_every_host(pod, number):
    # Where the tests run in the background of a script, SIGINT is ignored, and so it would be in what they start.
    before = signal.signal(number, signal.default_int_handler)
    try:
        send_to_every_host(pod, number)
    finally:
        signal.signal(number, before)


def send_to_every_host(pod, number):
    pod.create(2)
    name = signal.Signals(number).name
    command = f'trap "echo saved; exit $((128 + {int(number)}))" {name}; echo ready; while :; do sleep 0.1; done'
    process = pod.start("run", "pod", "--", "bash", "-c", command)
    read_until(process, "ready")
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    assert [log.count("saved") for log in pod.logs()[0].values()] == [1, 1]


@pytest.mark.slow
def test_a_preempted_pod_comes_back(pod, tmp_path):
    """Only if it is asked to; then in one go, and with what was ordered."""
    pod.create(2, "--spot")
    done = tmp_path / "done"
    done.mkdir()
    command = (
        f'[ -e "{done}/$HOSTNAME" ] && echo second life && exit; touch "{done}/$HOSTNAME"; echo first life; sleep 60'
    )

    def preempted(*flags: str) -> tuple[int, str]:
        process = pod.start("run", "pod", *flags, "--", "bash", "-c", command)
        printed = read_until(process, "first life")
        pod.preempt()
        output, _ = process.communicate(timeout=300)
        return process.returncode, printed + output

    code, output = preempted()
    assert code == 1, output
    assert "--recreate" in output.splitlines()[-1]
    assert "SUSPENDED" in pod.type("status")[1]
    for path in done.iterdir():
        path.unlink()
    code, output = pod.type("run", "pod", "--", "true")
    assert code == 1
    assert "it was preempted" in output
    pod.type("delete", "pod", "--yes")
    pod.create(2, "--spot")
    code, output = preempted("--recreate")
    assert code == 0, output
    assert output.index("first life") < output.index("was preempted") < output.index("second life")
    orders = [call for call in pod.calls() if "create" in call]
    assert orders[-1] == orders[-2]
    assert "--spot" in orders[-1]


def test_refusals_say_what_to_type(pod):
    def refused(code: int, message: str, *arguments: str) -> None:
        found, output = pod.type(*arguments)
        assert found == code, output
        assert message in output

    order = ("create", "pod", "--type=v5e-8", "--zone=us-west4-a")
    refused(2, "--type=v9-8: expected v4-N", "create", "pod", "--type=v9-8", "--zone=us-west4-a")
    refused(2, "create needs --zone", "create", "pod", "--type=v5e-8")
    refused(2, "names are of a-z", "create", "My Pod", "--type=v5e-8", "--zone=us-west4-a")
    refused(2, "--size: no such flag", *order, "--size=3")
    refused(2, "expected create, install", "destroy", "pod")
    refused(2, "in which zone is pod?", "run", "pod", "--", "true")
    assert not [call for call in pod.calls() if "create" in call]
    refused(1, "locations list", "create", "pod", "--type=v5e-8", "--zone=us-nowhere1-a")
    pod.fail("quota")
    refused(1, "iam-admin/quotas", *order)
    refused(2, "in which zone is pod?", "delete", "pod", "--yes")  # what was refused left nothing
    pod.create(2, "--spot")
    refused(1, "tpu_setup/tpu delete pod", *order)  # there is one, and how it was ordered stays known
    assert "tier=spot" in (pod.repository / "runs" / "tpu" / "pod" / "order").read_text()
    refused(2, "run needs a command", "run", "pod")
    pod.fail("scp")
    refused(1, "cannot be reached", "run", "pod", "--", "true")
    pod.fail("pip")
    refused(1, "not every host of pod is installed", "install", "pod")


def test_a_dry_run_prints_every_command_and_runs_none(pod):
    place = ("--zone=us-west4-a", "--dry_run")
    lines = pod.type("create", "pod", "--type=v6e-16", "--reserved", *place)[1].splitlines()
    assert lines[0] == (
        "gcloud compute tpus queued-resources create pod --node-id=pod --accelerator-type=v6e-16 "
        "--runtime-version=v2-alpha-tpuv6e --reserved --quiet --zone=us-west4-a"
    )
    output = pod.type("run", "pod", *place, "--", "python", "-c", "print('a b')")[1]
    assert [line.split()[3:5] for line in output.splitlines() if line.startswith("gcloud")] == [
        ["queued-resources", "describe"],
        ["tpu-vm", "scp"],
        *[["tpu-vm", "ssh"]] * 5,
    ]
    assert "gcloud compute tpus queued-resources delete pod --force" in pod.type("delete", "pod", *place)[1]
    assert "tpu-vm list --zone=-" in pod.type("status", "--dry_run")[1]
    assert pod.calls() == []
