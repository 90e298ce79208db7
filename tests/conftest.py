"""Shared test setup: one thread a worker, no network, and a tiny base model made once."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before any of them is imported: these libraries read their settings once.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    GRADIO_ANALYTICS_ENABLED="False",
    RAY_USAGE_STATS_ENABLED="0",
)

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from tiny.commands import Command
    from tiny.world import World

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("mascot", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("mascot")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and a cache for class pictures."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 256, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(values).save(home / "photos" / f"{i}.png")
    return home


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion folder, epsilon prediction, shared by all workers: read only."""
    from tiny.stable_diffusion import tiny_stable_diffusion

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny_base"
    if not shared.exists():
        made = tiny_stable_diffusion(tmp_path_factory.mktemp("making") / "tiny_base")
        try:
            made.rename(shared)
        except OSError:  # another worker was quicker, and its folder is the same
            assert shared.exists()
    return shared


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[World]:
    """A tiny run, its photos and encoders, and a cache of the module's own."""
    from tiny.world import World

    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASCOT_CACHE", str(folder / "cache"))
        yield World(folder, tiny_base)


@pytest.fixture
def mascot(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: its exit code, standard output and standard error."""
    from tiny.commands import Command

    return Command(monkeypatch, capfd)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos and adapters beside the repository; tests skip without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: it holds photos and adapters that are not part of the repository")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _fresh_accelerator() -> None:
    """Reset accelerate's precision: it keeps one a process, and refuses a second."""
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to another machine, by an error that no library can swallow."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


def _guarded(connect: Any) -> Any:
    def guarded(connection: socket.socket, address: Any) -> Any:
        # A datagram socket's connect sends nothing: libraries find this machine's address by it.
        if (
            connection.family in {socket.AF_INET, socket.AF_INET6}
            and connection.type != socket.SOCK_DGRAM
            and not _is_here(address[0])
        ):
            connection.close()  # else a warning about the open socket hides this sentence
            pytest.fail(f"the test connected to {address[0]}:{address[1]}; tests do not use the network")
        return connect(connection, address)

    return guarded


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
