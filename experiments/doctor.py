"""Is everything there that a run needs?   python -m experiments.doctor [--workdir=FOLDER] [-- COMMAND]

Once on every host, like a run; `tpu_setup/tpu doctor NAME` does so. Every finding that is not good says how to mend it.
COMMAND is a run, as it will be typed: `-- python -m experiments.pretrain bert-base --mesh=data:16`.
"""

import dataclasses
import json
import os
import socket
import time

import jax
from jax._src import hardware_utils  # what is plugged in, whether jax can use it or not: it has no public name

from core_jax import cluster_checks, distributed, host_checks
from core_jax.errors import UserError
from core_jax.host_checks import Finding
from core_jax.sharding import local_rows, parse_mesh
from experiments import pretrain
from experiments.console import parse_flags, parse_preset, report, run_command, say, value_of
from experiments.families import PRESETS, family_of

BROKEN = 1  # exit code
ALL_REDUCE_BYTES = {"cpu": 2**20, "gpu": 2**26, "tpu": 2**26}


@dataclasses.dataclass(frozen=True)
class Doctor:
    """What is looked at."""

    workdir: str = ""  # folder that must be usable from every host, such as gs://bucket/run; else that of COMMAND
    silence_seconds: int = 60  # without a sign of life, after which a process of several counts as dead


def main(arguments: list[str]) -> int:
    """Looks at everything and reports; returns 0 if nothing is broken."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    flags = parse_flags(Doctor, arguments[:split], "Looks whether all is there that a run needs.")
    command = arguments[split + 1 :]
    workdir = flags.workdir or value_of("--workdir", command)
    held = host_checks.check_holders(host_checks.holders())
    if held.verdict == "broken":  # jax would wait for it, or fall back to the CPU
        report(describe(held, socket.gethostname()))
        return BROKEN
    distributed.initialise(flags.silence_seconds, report)
    hosts, findings = examine_hosts([held], workdir)
    findings += [("", finding) for finding in examine_together(command)]
    for host, finding in findings:
        say(describe(finding, host if len(hosts) > 1 else ""))
    is_broken = any(finding.verdict == "broken" for _, finding in findings)
    say("something is broken: see above" if is_broken else "nothing is broken")
    return BROKEN if is_broken else 0


def describe(finding: Finding, host: str) -> str:
    """As it is printed: one line, and how to mend it on a second."""
    line = f"{finding.verdict:<7} {host + ': ' if host else ''}{finding.text}"
    return f"{line}\n        to mend it: {finding.mend}" if finding.mend else line


def examine_hosts(found: list[Finding], workdir: str) -> tuple[list[str], list[tuple[str, Finding]]]:
    """What every host finds out about itself, and what comes of comparing them; all hosts get all of it.

    Returns:
      The names of the hosts, and (host, finding); the host is empty where a finding is about all.
    """
    chips, _ = hardware_utils.num_available_tpu_chips_and_device_id()
    gpu = hardware_utils.has_visible_nvidia_gpu()
    count = jax.local_device_count()
    found = [*found, host_checks.check_devices(jax.default_backend(), count, chips, gpu, os.environ)]
    found.append(host_checks.check_disk(os.path.expanduser("~")))
    if workdir:
        found.append(host_checks.check_folder(workdir))
    distributed.gather("")  # so that all look at their clocks at the same moment
    about = {"host": socket.gethostname(), "code": host_checks.describe_code(), "time": time.time(), "devices": count}
    about["found"] = [dataclasses.asdict(finding) for finding in found]
    told = [json.loads(text) for text in distributed.gather(json.dumps(about))]
    hosts = [f"{one['host']} ({place})" if len(told) > 1 else one["host"] for place, one in enumerate(told)]
    findings = [(host, Finding(**finding)) for host, one in zip(hosts, told, strict=True) for finding in one["found"]]
    codes, times, devices = ([one[name] for one in told] for name in ("code", "time", "devices"))
    together = [*cluster_checks.check_same_code(hosts, codes), cluster_checks.check_clocks(hosts, times)]
    together.append(cluster_checks.check_devices_alike(hosts, devices))
    return hosts, findings + [("", finding) for finding in together]


def examine_together(command: list[str]) -> list[Finding]:
    """What takes all devices, or concerns the run."""
    size = ALL_REDUCE_BYTES.get(jax.default_backend(), 2**20)
    findings = []
    if jax.device_count() > 1:
        measured = cluster_checks.measure_all_reduce(size)
        right = all(text == "True" for text in distributed.gather(str(measured.right)))
        findings.append(cluster_checks.check_all_reduce(dataclasses.replace(measured, right=right), size))
    if command:
        found = distributed.first_decides(lambda: dataclasses.asdict(check_command(command)))
        findings.append(Finding(**found))
    return findings


def check_command(command: list[str]) -> Finding:
    """Whether a command would start: its flags, mesh, batch and work folder; nothing is compiled or read."""
    if "experiments.pretrain" not in command:
        text = f"{' '.join(command)}: only the flags of experiments.pretrain are looked at"
        return Finding("note", text, "give the command of a pretraining: -- python -m experiments.pretrain ...")
    arguments = command[command.index("experiments.pretrain") + 1 :]
    try:
        config = parse_preset(arguments, PRESETS, "bert-tiny", pretrain.DESCRIPTION)
        config = family_of(config).adopt(config, say)
        training, mesh = config.training, parse_mesh(config.training.mesh)
        pretrain.check(config, training.workdir or os.path.join("runs", config.preset), mesh)
    except UserError as error:
        return Finding("broken", f"{' '.join(command)} would not start", str(error))
    except SystemExit:
        return Finding(
            "broken", f"{' '.join(command)} would not start: see above", "python -m experiments.pretrain --help"
        )
    rows, parts = training.global_batch_size, mesh.shape["data"] * mesh.shape["fsdp"] * training.accumulation_steps
    axes = ",".join(f"{axis}:{size}" for axis, size in mesh.shape.items())
    return Finding(
        "ok",
        f"--mesh={axes}: {mesh.size} devices; a step has {rows:,} rows, {len(local_rows(mesh, rows)):,} on each host, "
        f"{rows // parts:,} at once on each replica; {training.steps:,} steps",
    )


if __name__ == "__main__":
    run_command(main)
