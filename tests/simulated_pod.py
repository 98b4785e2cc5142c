"""`tpu_setup/tpu` as a user types it, from a repository of its own, in a cloud that is a folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from tests.simulated_gcloud import Resource

ROOT = pathlib.Path(__file__).parent.parent
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@test", "-c", "commit.gpgsign=false")


class Pod:
    """A repository with spaces in its path, and the cloud that its `tpu` speaks to."""

    def __init__(self, folder: pathlib.Path, packages: tuple[str, ...] = ()):
        """Commits tpu_setup, pyproject.toml and packages, as they are here, to a new repository."""
        self.repository, self.cloud = folder / "my repository", folder / "cloud"
        for name in ("tpu_setup", *packages):
            shutil.copytree(ROOT / name, self.repository / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", self.repository)
        (self.repository / ".gitignore").write_text("/runs/\n__pycache__/\n")
        self.started: list[subprocess.Popen] = []
        self.git("init", "--quiet")
        self.commit()
        (self.cloud / "faults").mkdir(parents=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))
        } | {
            "PATH": f"{ROOT / 'tests' / 'simulated_cloud'}:{os.environ['PATH']}",
            "SIMULATED_CLOUD": str(self.cloud),
            "SIMULATED_PYTHON": sys.executable,
            "TPU_POLL_SECONDS": "1",
            "TPU_PATIENCE_SECONDS": "2",
        }

    def git(self, *arguments: str) -> None:
        subprocess.run([*GIT, *arguments], cwd=self.repository, check=True, stdout=subprocess.DEVNULL)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=all")

    def start(self, *arguments: str) -> subprocess.Popen:
        """Types `tpu_setup/tpu ...`; output is joined."""
        line = [str(self.repository / "tpu_setup" / "tpu"), *arguments]
        process = subprocess.Popen(
            line,
            cwd=self.repository,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process

    def type(self, *arguments: str, answer: str = "", seconds: float = 300) -> tuple[int, str]:
        """The exit code of `tpu_setup/tpu ...`, and all that it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(answer, timeout=seconds)
        return process.returncode, output

    def create(self, hosts: int = 2, *flags: str) -> None:
        code, output = self.type("create", "pod", f"--type=v5e-{4 * hosts}", "--zone=us-west4-a", *flags)
        assert code == 0, output

    def fail(self, what: str, content: str = "1") -> None:
        """Makes the cloud fail: see `simulated_gcloud`."""
        (self.cloud / "faults" / what).write_text(content)

    def preempt(self) -> None:
        """Takes the machine away, as the cloud does."""
        Resource("pod", self.cloud).preempt()

    def close(self) -> None:
        """Ends what still runs, here and on its hosts."""
        for process in self.started:
            process.kill()
            process.wait()
        Resource("pod", self.cloud).take_hosts()

    @property
    def hosts(self) -> list[pathlib.Path]:
        return sorted((self.cloud / "resources" / "pod" / "hosts").glob("w-*"))

    def logs(self) -> list[dict[str, str]]:
        """Of each run, oldest first: each host's log by its file's name, as copied here."""
        runs = sorted(path.parent for path in (self.repository / "runs" / "tpu" / "pod").glob("*/command"))
        return [{log.name: log.read_text() for log in run.glob("worker-*.log")} for run in runs]

    def calls(self) -> list[list[str]]:
        """Command lines that gcloud was given."""
        path = self.cloud / "calls.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
