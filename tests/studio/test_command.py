"""Laws of the command `studio`: each option is used or refused, and it ends in order."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the studio's extra is not installed")

from mascot.storage.run_lock import hold_lock
from mascot.studio import app
from mascot.studio.workshop import OWN
from tiny.commands import Command

Served = list[Mapping[str, Any]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """What would be served: the library, the socket's address, and whether there is a password."""
    found: Served = []

    def serve(library: Path, listener: socket.socket, **options: Any) -> None:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])).close()  # nobody is refused who comes early
        found.append({"library": library, "bound": listener.getsockname(), **options})

    monkeypatch.setattr(app, "serve_locked", serve)
    monkeypatch.delenv("MASCOT_PASSWORD", raising=False)
    return found


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_it_listens_on_this_machine_alone(mascot: Command, served: Served, library: Path) -> None:
    assert mascot("studio", "--port", 0, "--library", library)[0] == 0
    [found] = served
    assert (found["library"], found["bound"][0], found["password"]) == (library, "127.0.0.1", None)
    assert found["bound"][1] > 0


def test_the_library_is_the_folder_runs(
    mascot: Command, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mascot("studio", "--port", 0)[0] == 0
    assert served[0]["library"] == Path("runs")


def test_the_port_is_the_one_that_is_given(mascot: Command, served: Served, library: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, errors = mascot("studio", "--port", port, "--library", library)
    assert (code, served) == (2, [])
    assert f"127.0.0.1:{port} cannot be listened on" in errors
    assert mascot("studio", "--port", port, "--library", library)[0] == 0
    assert served[0]["bound"][1] == port
    assert mascot("studio", "--port", 65536)[0] == 2


def test_another_address_needs_a_password(
    mascot: Command, served: Served, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("studio", "--port", 0, "--library", library, "--address", "0.0.0.0")  # noqa: S104 - refused
    code, _, errors = mascot(*words)
    assert (code, served, library.exists()) == (2, [], False)
    assert "--password" in errors
    assert mascot(*words, "--password", "short")[0] == 2
    assert mascot(*words, "--password", "long enough")[0] == 0
    monkeypatch.setenv("MASCOT_PASSWORD", "from the environment")
    assert mascot(*words)[0] == 0
    assert [found["password"] for found in served] == ["long enough", "from the environment"]


def test_a_link_through_another_machine_is_refused(mascot: Command, served: Served, library: Path) -> None:
    code, _, errors = mascot("studio", "--port", 0, "--library", library, "--share", "always")
    assert (code, served) == (2, [])
    assert "--share" in errors
    assert "never" in errors
    assert mascot("studio", "--port", 0, "--library", library, "--share", "never")[0] == 0


def test_one_studio_serves_a_library(mascot: Command, served: Served, library: Path) -> None:
    with hold_lock(library / OWN):
        code, _, errors = mascot("studio", "--port", 0, "--library", library)
    assert (code, served) == (2, [])
    assert errors.startswith("mascot: another studio serves ")
    assert mascot("studio", "--port", 0, "--library", library)[0] == 0


def test_an_empty_library_and_an_address_of_nobody_are_refused(mascot: Command, served: Served, library: Path) -> None:
    assert mascot("studio", "--library", "")[0] == 2
    code, _, errors = mascot("studio", "--address", "192.0.2.1", "--password", "long enough", "--library", library)
    assert (code, served) == (2, [])
    assert "192.0.2.1:7860 cannot be listened on" in errors


def test_without_the_extra_a_sentence_says_what_to_install(
    mascot: Command, monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    monkeypatch.delitem(sys.modules, "mascot.studio.app")
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, errors = mascot("studio", "--library", library)
    assert code == 2
    assert errors == "mascot: the studio needs gradio; run pip install 'mascot[studio]'.\n"
