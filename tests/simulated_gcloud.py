"""A stand-in for `gcloud compute tpus`: a cloud in a folder, whose hosts are folders and whose programs really run.

Simulated are: the cloud's answers, the network (ssh and scp are local), and what hosts install (they use the libraries
of the test's interpreter). Real are: the committed tree on each host, sessions, signals, logs, exit codes, processes
that find each other through jax.distributed, and their death when the machine is taken away.

SIMULATED_CLOUD names the folder. In its `faults/` a file makes something fail: `quota`, `scp`; `ssh` holds how many
connections to come break, each after a line; `pip` holds pip's exit code.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

CHIPS_A_HOST = 4  # of v4, v5p and pods of the others
ZONES = ("us-west4-a", "us-central2-b", "europe-west4-b")
HOST_PROGRAMS = pathlib.Path(__file__).parent / "simulated_host"


def cloud() -> pathlib.Path:
    """The folder that stands for the cloud."""
    return pathlib.Path(os.environ["SIMULATED_CLOUD"])


def fault(name: str) -> bool:
    """Whether something is to fail now; a file that holds a number counts down."""
    path = cloud() / "faults" / name
    if not path.exists():
        return False
    left = int(path.read_text() or 1) - 1
    path.write_text(str(left)) if left else path.unlink()
    return True


def refuse(command: str, message: str) -> int:
    """Fails as gcloud does."""
    print(f"ERROR: (gcloud.compute.tpus.{command}) {message}", file=sys.stderr)
    return 1


class Resource:
    """A queued resource and its hosts."""

    def __init__(self, name: str, place: pathlib.Path | None = None):
        self.folder = (place or cloud()) / "resources" / name
        self.path = self.folder / "resource.json"

    @property
    def known(self) -> dict:
        return json.loads(self.path.read_text())

    @property
    def hosts(self) -> list[pathlib.Path]:
        """The home of each."""
        return sorted((self.folder / "hosts").glob("w-*"))

    def create(self, options: argparse.Namespace) -> None:
        kind, _, cores = options.accelerator_type.rpartition("-")
        chips = int(cores) // (2 if kind in ("v4", "v5p") else 1)
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        for index in range(max(chips // CHIPS_A_HOST, 1)):
            (self.folder / "hosts" / f"w-{index}").mkdir(parents=True)
        tier = "spot" if options.spot else "reserved" if options.reserved else "on demand"
        known = {"state": "ACTIVE", "type": options.accelerator_type, "port": port, "zone": options.zone, "tier": tier}
        self.path.write_text(json.dumps(known))

    def take_hosts(self) -> None:
        """What runs there dies at once, and the disks are gone."""
        import psutil  # here: what is asked most often answers faster without

        homes = {str(home) for home in self.hosts}
        for process in psutil.process_iter():
            try:
                if process.environ().get("SIMULATED_HOST") in homes:
                    process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        for _ in range(50):  # a process that just dies may still write
            shutil.rmtree(self.folder / "hosts", ignore_errors=True)
            if not (self.folder / "hosts").exists():
                return
            time.sleep(0.1)

    def preempt(self) -> None:
        self.path.write_text(json.dumps(self.known | {"state": "SUSPENDED"}))
        self.take_hosts()

    def environment(self, home: pathlib.Path) -> dict[str, str]:
        """Of a program on a host: a TPU host knows the others from its metadata, this one from variables."""
        known, hosts = self.known, self.hosts
        place = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{known['port']}",
            "JAX_NUM_PROCESSES": str(len(hosts)),
            "JAX_PROCESS_ID": str(hosts.index(home)),
        }
        machine = {"HOME": str(home), "HOSTNAME": home.name, "SIMULATED_HOST": str(home), "JAX_PLATFORMS": "cpu"}
        machine["PATH"] = f"{HOST_PROGRAMS}:{os.environ['PATH']}"
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return inherited | machine | (place if len(hosts) > 1 else {})


def answer(text: str) -> int:
    """Prints, if there is something to print."""
    if text:
        print(text)
    return 0


def queued_resources(verb: str, options: argparse.Namespace) -> int:
    name = options.words[0] if options.words else ""
    resource = Resource(name)
    if verb == "list":
        return list_resources(options, hosts=False)
    if verb == "create":
        if fault("quota"):
            return refuse(
                f"queued-resources.{verb}", "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sLitepod...' has been exceeded."
            )
        if resource.path.exists():
            return refuse(f"queued-resources.{verb}", f"ALREADY_EXISTS: Resource '{name}' already exists")
        resource.create(options)
        return 0
    if not resource.path.exists():
        return refuse(f"queued-resources.{verb}", f"NOT_FOUND: Resource '{name}' was not found")
    if verb == "describe":
        return answer(resource.known["state"] if "state" in options.format else name)
    assert verb == "delete"
    if resource.hosts and not options.force:
        return refuse(f"queued-resources.{verb}", "FAILED_PRECONDITION: it has nodes")
    resource.take_hosts()
    shutil.rmtree(resource.folder)
    return 0


def tpu_vm(verb: str, options: argparse.Namespace) -> int:
    if verb == "list":
        return list_resources(options, hosts=True)
    name = options.words[-1].partition(":")[0] if verb == "scp" else options.words[0]
    resource = Resource(name)
    if not resource.hosts:
        return refuse(f"tpu-vm.{verb}", f"NOT_FOUND: Resource '{name}' was not found")
    if verb == "describe":
        return answer("\n".join(f"10.0.0.{index}" for index in range(len(resource.hosts))))
    chosen = resource.hosts if options.worker == "all" else [resource.hosts[int(options.worker)]]
    if verb == "scp":
        if fault("scp"):
            return refuse(f"tpu-vm.{verb}", "Could not SSH into the instance")
        for home in chosen:
            for source in options.words[:-1]:
                shutil.copy(source, home)
        return 0
    assert verb == "ssh"
    return ssh(resource, chosen, options.command)


def ssh(resource: Resource, homes: list[pathlib.Path], command: str) -> int:
    """Runs a command line on hosts; the first exit code that is not 0 is its own."""
    broken = "follow" in command and fault("ssh")
    programs = [
        subprocess.Popen(
            ["bash", "-c", command],
            cwd=home,
            env=resource.environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if broken else None,
        )
        for home in homes
    ]
    if broken:
        assert programs[0].stdout is not None
        sys.stdout.buffer.write(programs[0].stdout.readline())
        sys.stdout.flush()
        programs[0].kill()
        print("client_loop: send disconnect: Broken pipe", file=sys.stderr)
        return 255
    return next((code for code in [program.wait() for program in programs] if code), 0)


def list_resources(options: argparse.Namespace, hosts: bool) -> int:
    for path in sorted((cloud() / "resources").glob("*/resource.json")):
        resource = Resource(path.parent.name)
        known = resource.known
        if options.zone not in ("-", known["zone"]) or (hosts and not resource.hosts):
            continue
        full = f"projects/p/locations/{known['zone']}/nodes/{path.parent.name}"
        print(f"{full},{'READY' if hosts else known['state']},{known['type']}")
    return 0


def main(arguments: list[str]) -> int:
    """Answers one command line."""
    cloud().mkdir(exist_ok=True)
    with (cloud() / "calls.log").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments[:2] == ["config", "get-value"]:
        return answer({"account": "somebody", "project": "p"}.get(arguments[2], ""))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("node-id", "accelerator-type", "runtime-version", "worker", "command", "format", "flatten"):
        parser.add_argument(f"--{flag}", default="")
    for flag in ("network", "subnetwork", "service-account", "valid-until-duration", "project"):
        parser.add_argument(f"--{flag}")
    for flag in ("spot", "reserved", "force", "quiet", "internal-ips"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--ssh-flag", action="append")
    parser.add_argument("--zone", required=True)
    parser.add_argument("words", nargs="*")
    assert arguments[:2] == ["compute", "tpus"], arguments
    group, verb = arguments[2:4]
    options = parser.parse_args(arguments[4:])
    if options.zone not in (*ZONES, "-"):
        return refuse(
            f"{group}.{verb}",
            f"PERMISSION_DENIED: Permission denied on 'locations/{options.zone}' (or it may not exist).",
        )
    return {"queued-resources": queued_resources, "tpu-vm": tpu_vm}[group](verb, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
