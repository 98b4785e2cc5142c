"""What the doctor makes of hosts that are not well: each finding says how to mend it."""

import os
import pathlib
import subprocess
import sys

import pytest

from core_jax import cluster_checks, host_checks
from core_jax.host_checks import Finding
from experiments import doctor


def broken(finding: Finding, text: str, mend: str) -> None:
    assert finding.verdict == "broken"
    assert text in finding.text
    assert mend in finding.mend


def test_a_tpu_that_another_process_holds(tmp_path):
    """A real process that has the file open; this one, which has too, does not count."""
    chip = tmp_path / "accel0"
    chip.touch()
    code = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with (
        chip.open(),
        subprocess.Popen(
            [sys.executable, "-c", code, str(chip)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
    ):
        assert holder.stdout is not None
        holder.stdout.readline()
        found = host_checks.holders([f"{tmp_path}/accel*"])
        holder.kill()
    assert set(found) == {holder.pid}
    assert os.getpid() not in found
    broken(host_checks.check_holders(found), f"held by process {holder.pid}", f"kill {holder.pid}")
    assert host_checks.check_holders(host_checks.holders([f"{tmp_path}/nothing*"])).verdict == "ok"


def test_devices_that_jax_does_not_see():
    check = host_checks.check_devices
    broken(check("cpu", 1, 4, False, {}), "4 TPU chips, but jax computes on its CPU", "pip install -e '.[tpu]'")
    broken(check("cpu", 1, 0, True, {}), "a GPU, but jax", "pip install -e '.[gpu]'")
    broken(check("cpu", 1, 4, False, {"JAX_PLATFORMS": "cpu"}), "its CPU", "unset JAX_PLATFORMS")
    broken(check("tpu", 2, 4, False, {}), "2 devices of 4 TPU chips", "TPU_VISIBLE_CHIPS")
    assert check("tpu", 4, 4, False, {}).verdict == "ok"
    assert check("tpu", 8, 4, False, {}).verdict == "ok"  # TPU v3: two devices a chip
    assert check("cpu", 8, 0, False, {}).verdict == "ok"


def test_folders(tmp_path):
    assert host_checks.check_folder(tmp_path / "new" / "run").verdict == "ok"
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").touch()
    broken(host_checks.check_folder(tmp_path / "file"), "cannot be used", "--workdir")
    assert host_checks.check_disk(tmp_path).text.endswith(str(tmp_path))


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(host_checks, "NO_SPACE", 1e18)
    monkeypatch.setattr(host_checks, "LITTLE_SPACE", 1e18)
    broken(host_checks.check_disk(tmp_path), "GB free", "du -xhd1")


def test_hosts_that_differ():
    hosts, code = ["w-0", "w-1", "w-2"], {"commit": "a", "jax": "0.10.2", "libtpu": None}
    [finding] = cluster_checks.check_same_code(hosts, [code, code, code | {"jax": "0.9.0"}])
    broken(finding, "w-0 has jax 0.10.2, but w-2 has 0.9.0", "tpu install")
    assert [one.verdict for one in cluster_checks.check_same_code(hosts, [code] * 3)] == ["ok"]
    broken(cluster_checks.check_clocks(hosts, [100.0, 100.1, 40.0]), "w-2 by -60 s", "chrony")
    assert cluster_checks.check_clocks(hosts, [100.0, 100.1, 102.0]).verdict == "ok"
    broken(cluster_checks.check_devices_alike(hosts, [4, 4, 3]), "w-2 has 3", "delete")


def test_a_sum_over_all_devices():
    measured = cluster_checks.measure_all_reduce(2**12)
    assert measured.right
    assert measured.bytes_sent == 2 * 7 / 8 * 2**12
    assert "GB/s a device" in cluster_checks.check_all_reduce(measured, 2**12).text
    wrong = cluster_checks.AllReduce(right=False, seconds=1.0, bytes_sent=1.0)
    broken(cluster_checks.check_all_reduce(wrong, 2**12), "came out wrong", "create another")


@pytest.mark.parametrize(
    ("command", "verdict", "text"),
    [
        ("--mesh=data:4,tensor:2", "ok", "64 rows, 64 on each host, 16 at once"),
        ("--mesh=data:3", "broken", "--mesh=data:3"),
        ("--global_batch_size=12", "broken", "12"),
        ("--stepss=3", "broken", "pretrain --help"),
    ],
)
def test_the_arithmetic_of_a_command(command, verdict, text, tmp_path):
    line = ["python", "-m", "experiments.pretrain", command, f"--workdir={tmp_path / 'run'}"]
    finding = doctor.check_command(line)
    assert finding.verdict == verdict
    assert text in finding.text + finding.mend


def test_the_exit_code_says_whether_something_is_broken(tmp_path, capsys):
    assert doctor.main([f"--workdir={tmp_path}", "--", "python", "-m", "experiments.glue"]) == 0
    assert "only the flags of experiments.pretrain" in capsys.readouterr().out
    blocked = pathlib.Path(tmp_path / "file")
    blocked.touch()
    assert doctor.main([f"--workdir={blocked}"]) == 1
    assert "to mend it: choose another --workdir" in capsys.readouterr().out
