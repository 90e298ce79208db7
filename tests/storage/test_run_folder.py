"""Laws of a run's folder: files are whole or absent, one process a run, logs outlive power cuts."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from mascot.errors import UserError
from mascot.storage.atomic_write import ABANDONED, atomic_write, fresh_path, is_writable, write_new
from mascot.storage.run_folder import (
    Run,
    delete_all_but_adapter,
    delete_old_checkpoints,
    delete_other_bests,
    images_folder,
    kept_steps,
    locate,
    open_run,
    split_steps,
    step_of,
)
from mascot.storage.step_log import rewind_steps

ROOT = Path(__file__).resolve().parents[2]
ROW = {"step": 1, "loss": 0.5, "subject_loss": 0.25, "norm": 1.0}


def names(folder: Path) -> list[str]:
    """List the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, fault: BaseException) -> None:
    """Write half a file, then fail."""
    with atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise fault


def write_half_a_folder(path: Path, fault: BaseException) -> None:
    """Write half a folder, then fail."""
    with atomic_write(path) as temporary:
        temporary.mkdir()
        (temporary / "half").touch()
        raise fault


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with atomic_write(path) as temporary:
        temporary.write_text("ne", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        temporary.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_a_fault_leaves_the_old_file_and_no_other(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(type(fault)):
        write_half(path, fault)
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError("no number"), "no number"),
        (SafetensorError("I/O error: No space left on device"), "I/O error: No space left on device"),
    ],
    ids=repr,
)
def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path, fault: Exception, reason: str) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        write_half(path, fault)
    assert str(raised.value) == f"{path} cannot be written ({reason}); free some space or choose another folder."
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


def test_a_really_full_file_system_is_reported(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal; from pathlib import Path\n"
        "from mascot.storage.run_folder import Run; from mascot.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "run = Run(Path('.'))\n"
        "try: run.write_text(run.report, 'x' * 5000)\n"
        "except UserError as error: print(error)"
    )
    del resource
    run = Run(tmp_path)
    run.write_text(run.report, "old")
    assert "report.html cannot be written (File too large)" in python(code, tmp_path).stdout
    assert run.report.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["report.html"]


def test_a_folder_is_replaced_like_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        write_half_a_folder(tmp_path / "folder", ValueError("no"))
    assert names(tmp_path) == []
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "whole").touch()
    assert names(tmp_path / "folder") == ["whole"]


def test_a_path_through_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "inside"):
        pass
    assert names(tmp_path) == ["file"]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new process, with a folder as its working directory."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )


def test_a_second_process_is_kept_out_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from mascot.storage.run_folder import Run\n"
        "with Run(Path('run')).locked(): print('held', flush=True); input()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    run = Run(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by another mascot process"), run.locked():
            pytest.fail("two processes held one lock")
        assert run.lock.exists()
        other.send_signal(signal.SIGKILL)
        other.wait()
    with run.locked():
        pass


def test_a_run_in_which_nothing_was_written_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError), Run(tmp_path / "runs" / "a").locked():
        raise UserError("no")
    assert names(tmp_path) == []


def test_a_lock_removes_only_the_folders_it_created(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    with Run(tmp_path / "runs" / "a").locked():
        pass
    assert names(tmp_path / "runs") == ["a"]
    run = Run(tmp_path / "runs" / "b")
    with run.locked():
        run.write_text(run.recipe, "")
    assert names(run.folder) == ["lock", "recipe.toml"]


def log_of(run: Run, count: int) -> str:
    """Write a step log of `count` lines and return its text."""
    text = "".join(json.dumps(ROW | {"step": step}) + "\n" for step in range(1, count + 1))
    run.steps.write_text(text, encoding="utf-8")
    return text


@given(data=st.data(), count=st.integers(1, 6))
def test_a_log_that_was_cut_off_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    text = log_of(run, count)
    kept = data.draw(st.integers(0, len(text)))
    run.steps.write_text(text[:kept], encoding="utf-8")
    whole = text[:kept].count("}")
    assert run.read_steps() == [ROW | {"step": step} for step in range(1, whole + 1)]


def test_a_log_that_ends_in_zeros_keeps_its_whole_lines(tmp_path: Path) -> None:
    run = Run(tmp_path)
    text = log_of(run, 3)
    run.steps.write_bytes(text.encode() + bytes(100))
    assert [row["step"] for row in run.read_steps()] == [1, 2, 3]


@given(count=st.integers(0, 6), step=st.integers(0, 8))
def test_rewinding_drops_what_will_be_trained_again(
    tmp_path_factory: pytest.TempPathFactory, count: int, step: int
) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    text = log_of(run, count)
    run.steps.write_text(text + '{"step": 9', encoding="utf-8")
    rewind_steps(run.steps, step)
    assert run.steps.read_text(encoding="utf-8") == "".join(text.splitlines(keepends=True)[:step])
    assert [row["step"] for row in run.read_steps(until=1)] == [1] * min(1, count, step)


def test_a_run_that_has_not_begun_has_no_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.read_steps() == []
    rewind_steps(run.steps, 0)
    assert run.read_steps() == []


@given(steps=st.sets(st.integers(0, 999_999), min_size=1, max_size=6), keep=st.integers(1, 7))
def test_the_newest_checkpoints_are_kept(tmp_path_factory: pytest.TempPathFactory, steps: set[int], keep: int) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    for step in steps:
        run.checkpoint(step).mkdir(parents=True)
        (run.checkpoint(step) / "state").touch()
    (run.folder / "checkpoints" / ".step999999.tmp").mkdir()
    delete_old_checkpoints(run, keep)
    newest = sorted(steps)[-keep:]
    assert sorted((run.folder / "checkpoints").glob("step*")) == [run.checkpoint(step) for step in newest]
    assert run.last_checkpoint() == run.checkpoint(newest[-1])


def test_sources_name_steps_of_runs_and_files_as_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path / "a@b")
    for step in (2, 4, 10):
        run.checkpoint(step).mkdir(parents=True)
        if step > 2:
            Run(run.checkpoint(step)).adapter.touch()
    run.recipe.touch()
    assert kept_steps(run) == [4, 10]
    at = lambda step: Path(f"{run.folder}@{step}")  # noqa: E731
    assert locate(run.folder) == run.folder
    assert locate(at(4)) == locate(at("000004")) == run.checkpoint(4)
    assert locate(tmp_path / "no@run") == tmp_path / "no@run"
    for step in (2, 3, "", "x", "-4", "4.0", "\u0664"):
        with pytest.raises(UserError, match=r"it keeps .*a@b@4 and .*a@b@10; give one of them"):
            locate(at(step))
    at(3).mkdir()
    assert locate(at(3)) == at(3)
    assert split_steps(at("4, 10")) == [at(4), at(10)]
    assert split_steps(at(4)) == [at(4)]
    assert split_steps(tmp_path / "x,y") == [tmp_path / "x,y"]
    Run(run.checkpoint(4)).adapter.unlink()
    Run(run.checkpoint(10)).adapter.unlink()
    with pytest.raises(UserError, match=r"it keeps none; give .*a@b\."):
        locate(at(4))


def test_images_of_a_checkpoint_are_written_where_they_stay(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.recipe.touch()
    assert images_folder(run.adapter) == run.folder / "images"
    assert images_folder(Run(run.checkpoint(4)).adapter) == run.folder / "images" / "step000004"
    other = tmp_path / "checkpoints" / "mine" / "x.safetensors"
    assert images_folder(other) == other.parent / "images"


def test_a_checkpoint_knows_its_step(tmp_path: Path) -> None:
    assert step_of(Run(tmp_path).checkpoint(123)) == 123


@pytest.mark.parametrize("kept", [None, 7])
def test_only_the_best_parameters_are_kept(tmp_path: Path, kept: int | None) -> None:
    run = Run(tmp_path)
    for step in (5, 7, 9):
        run.best(step).mkdir(parents=True)
    delete_other_bests(run, kept)
    assert names(tmp_path / "best") == ([] if kept is None else [run.best(kept).name])


def test_the_adapter_outlives_what_training_needed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.adapter.touch()
    for folder in (run.checkpoint(5), run.model(), run.model("_2")):
        folder.mkdir(parents=True)
    delete_all_but_adapter(run)
    assert names(tmp_path) == ["adapter.safetensors"]


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.last_checkpoint() is None
    with atomic_write(run.checkpoint(5)) as temporary:
        temporary.mkdir()
        assert run.last_checkpoint() is None
    assert run.last_checkpoint() == run.checkpoint(5)


def test_previews_are_found_by_step_and_in_order(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "previews").mkdir()
    for step, number in ((100, 1), (0, 0), (100, 0), (12345, 0)):
        run.preview(step, number).touch()
    (tmp_path / "previews" / ".step000200_0.png.tmp").touch()
    assert run.previews() == {
        0: [run.preview(0, 0)],
        100: [run.preview(100, 0), run.preview(100, 1)],
        12345: [run.preview(12345, 0)],
    }


def test_a_name_that_is_taken_is_not_used_again(tmp_path: Path) -> None:
    expected = ["a.png", "a-2.png", "a-3.png"]
    for name in expected:
        path = fresh_path(tmp_path, "a", ".png")
        assert path.name == name
        path.touch()
    assert names(tmp_path) == sorted(expected)


def test_many_processes_that_write_one_name_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mascot.storage.atomic_write import atomic_write, write_new\n"
        "for i in range(20):\n"
        "    write_new(Path('out'), 'a', '.txt', lambda path: path.write_text(f'{sys.argv[1]} {i}'))\n"
        "    with atomic_write(Path('out/shared')) as path: path.write_text('x' * 10_000)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)], env=environment, cwd=tmp_path) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").glob("a*.txt")]
    assert sorted(texts) == sorted(f"{n} {i}" for n in range(4) for i in range(20))
    assert (tmp_path / "out" / "shared").stat().st_size == 10_000
    assert len(names(tmp_path / "out")) == 81


def test_a_new_name_is_claimed_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path, __: Path) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for text in "abc":
        write_new(tmp_path, "x", ".txt", lambda path, text=text: path.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        "x.txt": "a",
        "x-2.txt": "b",
        "x-3.txt": "c",
    }


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os; from pathlib import Path; from mascot.storage.atomic_write import atomic_write\n"
        "with atomic_write(Path('file')) as path: path.write_text('half'); os._exit(9)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=False)
    (left,) = names(tmp_path)
    assert ABANDONED.fullmatch(left)
    assert Run(tmp_path).is_empty()
    other = tmp_path / f".file.ffff-{os.getpid()}-0.tmp"
    other.touch()
    with atomic_write(tmp_path / "file") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert names(tmp_path) == [other.name, "file"]


def test_what_has_its_name_has_reached_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.partition(".tmp")[0])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "inside").touch()
    assert synced == ["inside", temporary.name.removesuffix(".tmp"), tmp_path.name]
    synced.clear()
    write_new(tmp_path, "x", ".txt", Path.touch)
    assert len(synced) == 2
    assert synced[-1] == tmp_path.name


def test_only_a_run_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a mascot run"):
        open_run(tmp_path)
    Run(tmp_path).recipe.touch()
    assert open_run(tmp_path) == Run(tmp_path)


def test_whether_a_folder_can_be_made_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert is_writable(tmp_path)
    assert is_writable(tmp_path / "a" / "b")
    assert not is_writable(tmp_path / "file")
    assert not is_writable(tmp_path / "file" / "a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not is_writable(tmp_path / "a")
