"""Laws of the house itself: who may name whom, what importing costs, what is documented, what files are called."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mascot"
HEAVY = ("accelerate", "diffusers", "gradio", "numpy", "peft", "PIL", "ray", "torch", "transformers")
NAMELESS = {"utils", "helpers", "common", "misc", "manager"}
ALLOWED = {"load_lora_weights", "save_lora_weights", "unload_lora_weights"}
"""diffusers' own functions, whose names hold a method's."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def relative(path: Path) -> str:
    """A file's name as a test's name."""
    return path.relative_to(ROOT).as_posix()


def kinds() -> frozenset[str]:
    """Every family and every method by its file's name."""
    return frozenset(
        path.stem
        for folder in ("models/families", "methods")
        for path in (PACKAGE / folder).glob("*.py")
        if path.stem[0] != "_"
    )


def named(source: str, names: frozenset[str]) -> set[str]:
    """Which of `names` the code says, as words of an identifier or whole words of a string; comments and docstrings may say them."""
    tree = ast.parse(source)
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            # An underscore is part of a word here: "lora_down" is a key of a file format, "lora" is a method.
            found.update(name for name in names if re.search(rf"\b{name}\b", node.value))
        for identifier in identifiers(node):
            found.update(name for name in names if f"_{name}_" in f"_{snake(identifier)}_")
    return found


def identifiers(node: ast.AST) -> Iterator[str]:
    """What a node names: variables, attributes, arguments, functions, classes, modules."""
    for field in ("id", "attr", "arg", "name", "asname", "module"):
        value = getattr(node, field, None)
        if isinstance(value, str):
            yield from (part for part in value.split(".") if part not in ALLOWED)


def snake(identifier: str) -> str:
    """`TextualInversion` and `METHOD_LORA` as `textual_inversion` and `method_lora`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_their_own_folders_name_a_family_or_a_method(path: Path) -> None:
    if path.parent.name not in {"models/families", "methods"}:
        assert named(path.read_text(encoding="utf-8"), kinds()) == set()


@pytest.mark.parametrize(
    "fault",
    [
        "if family == 'sdxl': pass",
        "from mascot.families.sdxl import Stage",
        "from mascot.families import sdxl as other",
        "x = Sdxl()",
        "is_sdxl = True",
        "f(sdxl=1)",
        "def sdxl_sizes(): ...",
        "text = f'{base} is an sdxl base'",
    ],
)
def test_a_name_in_the_wrong_place_is_noticed(fault: str) -> None:
    assert named(fault, frozenset({"sdxl"})) == {"sdxl"}


@pytest.mark.parametrize(
    "innocent",
    ["'''About sdxl.'''", "x = 1  # as sdxl does", "pipe.load_lora_weights(x)", "key = 'lora_down'", "explora = 1"],
)
def test_prose_and_other_tools_words_are_no_names(innocent: str) -> None:
    assert named(innocent, frozenset({"sdxl", "lora"})) == set()


def undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """Public functions and classes without a docstring, methods included."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"{owner}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node.body, f"{owner}{node.name}.")


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_public_thing_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{relative(path)} does not say what it is"
    assert list(undocumented(tree.body)) == []


def test_a_missing_docstring_is_noticed() -> None:
    fault = "def f(): ...\nclass A:\n    'x'\n    def g(self): ...\n    def _h(self): ..."
    assert list(undocumented(ast.parse(fault).body)) == ["f", "A.g"]


def test_files_are_nouns_of_the_domain() -> None:
    folders = [ROOT / name for name in ("src", "tests", "starter_recipe", "benchmarks", "examples")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert [relative(path) for path in files if NAMELESS & set(path.relative_to(ROOT).with_suffix("").parts)] == []


def loaded_after(statement: str) -> set[str]:
    """The heavy libraries that a fresh Python has loaded after a statement."""
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit as stop:\n    assert not stop.code\nprint('\\n', *sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("\n ", 1)[-1].split()) & set(HEAVY)


def test_importing_costs_nothing() -> None:
    assert loaded_after("import mascot; dir(mascot)") == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded_after("sys.argv[:] = ['mascot', '--help']; from mascot.cli import main; main()") == set()


def test_a_heavy_import_is_noticed() -> None:
    assert loaded_after("import numpy") == {"numpy"}


def test_a_connection_to_another_machine_is_noticed() -> None:
    with socket.socket() as connection, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))


def test_this_machine_may_be_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getpeername() == server.getsockname()
