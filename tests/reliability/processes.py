"""Commands of the program in processes of their own, forked from one that has the libraries."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"
os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
# The process that is forked from starts anew, and must import this checkout's program.

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "accelerate",
        "peft",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "transformers.models.clip",
        "transformers.models.vit",
        "tensorboard",
        "mascot.api.train",
        "mascot.api.evaluate",
        "mascot.api.diagnose",
        "mascot.api.experiments.compare",
        "mascot.generation.generator",
    ]
)
"""Processes with the libraries imported already, so that starting one is quick."""

REACHED = 77
"""Exit code of a command that went through all its checks to the work itself."""
WORK = {
    "mascot.training.loop": "Loop.steps",
    "mascot.data.class_images": "read_or_generate",
    "mascot.generation.generator": "denoise_stage",
}
"""Where the long work begins, by module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended."""

    code: int | None
    """Exit code; negative for a signal; None if it was still running at the time limit."""
    stdout: str
    stderr: str
    seconds: float


@dataclass(kw_only=True)
class CommandProcess:
    """One command in a process of its own."""

    words: Sequence[str]
    folder: Path
    """Working folder; the user's cache and temporary files are in `temporary` below it."""
    log: Path
    """Folder of what it prints."""
    until_work: bool = False
    """Whether to end with `REACHED` where the long work would begin."""
    memory: int | None = None
    """Limit of address space, in bytes beyond what the process has at its start."""
    process: BaseProcess = field(init=False)
    begun: float = field(init=False)

    def start(self) -> CommandProcess:
        """Start the command."""
        self.log.mkdir(parents=True, exist_ok=True)
        self.begun = time.monotonic()
        self.process = PROCESSES.Process(
            target=run_command,
            args=(list(self.words), str(self.folder), str(self.log)),
            kwargs={"until_work": self.until_work, "memory": self.memory},
        )
        self.process.start()
        return self

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, if it still runs."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def end(self, limit: float) -> Ending:
        """Wait for its end, at most so many seconds; it is killed then."""
        self.process.join(limit)
        code = self.process.exitcode
        if code is None:
            self.kill()
            self.process.join()
        return Ending(
            code=code,
            stdout=read_log(self.log / "stdout"),
            stderr=read_log(self.log / "stderr"),
            seconds=time.monotonic() - self.begun,
        )


def read_log(path: Path) -> str:
    """Read what a command printed; undecodable bytes are replaced."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def run_command(words: list[str], folder: str, log: str, *, until_work: bool, memory: int | None) -> None:
    """Run one command of the program in this process."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{log}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    temporary = str(Path(folder, "temporary"))
    os.environ.update(
        MASCOT_CACHE=temporary, TMPDIR=temporary, XDG_CACHE_HOME=temporary, TRANSFORMERS_VERBOSITY="error"
    )
    if memory is not None:
        limit = address_space() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if until_work:
        stop_at_work()
    # Tests that run in the background inherit that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["mascot", *words]
    import_module("mascot.cli.app").main()


def address_space() -> int:
    """Return the bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def stop_at_work() -> None:
    """End this process with `REACHED` where the long work would begin."""

    def reached(*_: object, **__: object) -> None:
        os._exit(REACHED)

    for module, path in WORK.items():
        owner: Any = import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        assert hasattr(owner, name), f"{module} has no {path}"
        setattr(owner, name, reached)
