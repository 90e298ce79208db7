"""Laws of one process that trains again and again, as the kernel of a notebook does.

The study's notebook ended in an error of accelerate. It passed `logging_dir`, which accelerate had
removed. And accelerate keeps one precision a process, so that a second training with another one
fails unless its state is reset.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mascot.storage.run_folder import Run

TRAIN = """
import mascot

def train(out, precision, resume=False, steps=2, on_event=mascot.LiveProgress()):
    recipe = mascot.Recipe.preset(
        base={base!r}, photos={photos!r}, class_noun="dog", token="sks", precision=precision, device="cpu",
        training={{"steps": steps, "warmup_steps": 0}}, method={{"rank": 2}}, prior={{"weight": 0.0}},
        previews={{"every": 0}}, knobs={{"steps": 1}}, selection={{"active": False}}, diagnosis={{"active": False}},
        report={{"images": 0}},
    )
    return mascot.train(recipe, out=out, resume=resume, on_event=on_event)
"""


@pytest.fixture
def code(tiny_base: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The cell that defines `train`."""
    monkeypatch.setenv("MASCOT_CACHE", str(home / "cache"))
    return TRAIN.format(base=str(tiny_base), photos=str(home / "photos"))


def precision_of(run: Run) -> str:
    """The precision that a run says it trained in."""
    settings = dict(json.loads(run.effective.read_text(encoding="utf-8"))["settings"])
    return str(settings["device and precision"]).rpartition(", ")[2]


def test_one_process_trains_in_two_precisions(code: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the cell of the test's own notebook
    runs = [names["train"](tmp_path / precision, precision) for precision in ("fp32", "bf16")]
    assert [precision_of(run) for run in runs] == ["fp32", "bf16"]
    assert runs[1].adapter.read_bytes() != runs[0].adapter.read_bytes()
    if find_spec("tensorboard"):  # its folder is what `logging_dir` was for
        assert all(list(run.tensorboard.rglob("events*")) for run in runs)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Any]:
    """A kernel, and the client that sends it cells."""
    manager = pytest.importorskip("jupyter_client.manager", reason="it needs the extra `notebook`")
    started, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    yield started, client
    client.stop_channels()
    started.shutdown_kernel(now=True)


def outputs(client: Any, cell: str, stop: Any = None) -> list[dict[str, Any]]:
    """Send a cell, and return its messages; `stop` is called with each."""
    sent, found = client.execute(cell), []
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != sent:
            continue
        found.append(message)
        if stop is not None:
            stop(message)
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found


def errors(messages: list[dict[str, Any]]) -> list[str]:
    """What a person reads where cells fail."""
    return ["\n".join(m["content"]["traceback"]) for m in messages if m["msg_type"] == "error"]


@pytest.mark.slow
def test_one_kernel_trains_in_two_precisions_and_shows_both(code: str, kernel: Any, tmp_path: Path) -> None:
    _, client = kernel
    assert errors(outputs(client, f"import sys; sys.path[:0] = {sys.path!r}\n{code}")) == []
    for out, precision in (("first", "fp32"), ("second", "bf16"), ("third", "fp32")):
        messages = outputs(client, f"run = train({out!r}, {precision!r}, on_event=mascot.LiveProgress())")
        assert errors(messages) == []
        shown = [m["content"]["data"]["text/html"] for m in messages if "display_data" in m["msg_type"]]
        assert "Done" in shown[-1]
        assert precision_of(Run(tmp_path / out)) == precision
    assert Run(tmp_path / "first").adapter.read_bytes() == Run(tmp_path / "third").adapter.read_bytes()


@pytest.mark.slow
def test_a_mistake_is_one_sentence_in_a_kernel(code: str, kernel: Any) -> None:
    _, client = kernel
    assert errors(outputs(client, f"import sys; sys.path[:0] = {sys.path!r}\n{code}")) == []
    [said] = errors(outputs(client, "mascot.Recipe.preset(photos='x', class_noun='dog', training={'stepps': 2})"))
    assert said.startswith("UserError: ")
    assert "Traceback" not in said
    assert "did you mean" in said


@pytest.mark.slow
def test_a_stopped_cell_goes_on_where_it_was(code: str, kernel: Any, tmp_path: Path) -> None:
    manager, client = kernel
    assert errors(outputs(client, f"import sys; sys.path[:0] = {sys.path!r}\n{code}")) == []
    pressed: list[bool] = []

    def stop(message: dict[str, Any]) -> None:
        html = message["content"].get("data", {}).get("text/html", "")
        if "Step " in html and not pressed:
            pressed.append(True)
            manager.interrupt_kernel()

    cell = "run = train('stopped', 'fp32', steps=400, on_event=mascot.LiveProgress(every=0))"
    [said] = errors(outputs(client, cell, stop))
    assert "KeyboardInterrupt" in said
    done = int(Run(tmp_path / "stopped").checkpoints()[-1].name.removeprefix("step"))
    assert 0 < done < 400
    messages = outputs(client, "run = train('stopped', 'fp32', resume=True, steps=400)")
    assert errors(messages) == []
    assert Run(tmp_path / "stopped").adapter.exists()
