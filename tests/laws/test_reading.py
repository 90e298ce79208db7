"""The law of reading: the readers of `storage` alone open files, and none of them waits."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mascot.errors import UserError
from mascot.recipe.recipe import Recipe
from mascot.runs.inputs import read_subject
from tiny.photos import noise

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mascot"
READERS = {
    "storage/untrusted_files.py": "opens every file that is read",
    "storage/strict_parsing.py": "parses what was read, within limits",
    "storage/atomic_write.py": "waits until what was written has reached the disk",
    "storage/tensor_files.py": "opens safetensors files whose header it has checked",
    "storage/image_files.py": "decodes images whose bytes it has read",
    "data/image_decoding.py": "decodes photos from an opened file",
    "adapters/headers/tensor_hashes.py": "parses the header of a file that mascot itself has just made",
    "adapters/foreign_formats.py": "looks into an archive from an opened file",
    "runs/training_log.py": "writes the step log",
    "reports/html.py": "writes pages",
    "storage/event_log.py": "appends progress events",
    "studio/jobs/process.py": "appends what a job prints",
}
"""File that may call what opens or parses -> why."""
OPENING = {
    "open",
    "os.open",
    "io.open",
    "json.load",
    "json.loads",
    "tomllib.load",
    "tomllib.loads",
    "Image.open",
    "safe_open",
    "load_file",
    "torch.load",
    "np.load",
    "np.fromfile",
    "np.loadtxt",
    "pickle.load",
    "pickle.loads",
    "gzip.open",
    "zipfile.ZipFile",
}
METHODS = {"read_text", "read_bytes", "open"}
"""Methods of paths; stages, which are opened by a method of that name, are written in capitals."""


def openings(source: str) -> Iterator[str]:
    """Yield what a file calls to open or to parse something."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        owner = called.rpartition(".")[0]
        if called in OPENING or (method and not owner.endswith("Stage") and owner != "untrusted_files"):
            yield called


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_readers_open_files(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in READERS:
        assert list(openings(path.read_text(encoding="utf-8"))) == []


def test_every_exception_is_needed() -> None:
    for name in READERS:
        assert list(openings((PACKAGE / name).read_text(encoding="utf-8"))) != [], name


@pytest.mark.parametrize(
    "code",
    ["path.read_text()", "open(path)", "Image.open(path)", "safe_open(path)", "a.b.read_bytes()", "json.load(file)"],
)
def test_a_module_that_opens_a_file_is_noticed(code: str) -> None:
    assert list(openings(code)) != []


def pipe(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def endless(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    """A link that leads to itself."""
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, endless, loop, folder])
@pytest.mark.parametrize("name", ["photo.txt", "photo.caption", "metadata.jsonl", "metadata.csv", "photo.mask.png"])
def test_what_is_no_file_beside_a_photo_is_named_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    noise(64, 64).save(tmp_path / "photo.png")
    make(tmp_path / name)
    recipe = Recipe.preset(photos=(str(tmp_path),), class_noun="owl")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_subject(recipe)


@pytest.mark.parametrize("make", [pipe, endless, loop, folder])
def test_what_is_no_recipe_is_named_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "recipe.toml")
    with pytest.raises(UserError, match=r"recipe\.toml is not valid TOML \(it is a .*\); correct the file"):
        Recipe.read(tmp_path / "recipe.toml")


@pytest.mark.parametrize("make", [pipe, endless, loop])
def test_what_is_no_photo_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "photo.png")
    recipe = Recipe.preset(photos=(str(tmp_path),), class_noun="owl")
    with pytest.raises(UserError, match=r"photo\.png"):
        read_subject(recipe)
