"""Laws of the package: rooms, layers, sizes, names, documentation, cost of importing."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mascot"
HEAVY = ("accelerate", "diffusers", "gradio", "numpy", "peft", "PIL", "ray", "torch", "transformers")
NAMELESS = {"utils", "helpers", "common", "misc", "manager"}
ALLOWED = {"load_lora_weights", "save_lora_weights", "unload_lora_weights"}
"""diffusers' own functions, whose names hold a method's."""

FORMATS = {
    "adapters": {"lora", "textual_inversion"},
    "weight_changes": {"lora"},
    "inspection": {"lora", "sdxl", "sd3", "flux"},
    "formats": {"lora", "sd", "sdxl", "sd3", "flux"},
    "publication": {"lora"},
    "headers": {"lora", "dreambooth", "textual_inversion", "sd", "sdxl", "sd3", "flux"},
}
"""Room -> the methods and families whose file formats that room reads and writes."""

SOURCES = sorted(PACKAGE.rglob("*.py"))
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def relative(path: Path) -> str:
    """A file's name as a test's name."""
    return path.relative_to(ROOT).as_posix()


def kinds() -> frozenset[str]:
    """Every family and every method by its file's name."""
    files = [*(PACKAGE / "models" / "families").glob("*.py"), *(PACKAGE / "methods").glob("*.py")]
    return frozenset(path.stem for path in files) - {"__init__", "registry", "base_source"}


def named(source: str, names: frozenset[str]) -> set[str]:
    """Which of `names` the code says in identifiers or strings; comments and docstrings may."""
    tree = ast.parse(source)
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            # An underscore is part of a word here: "lora_down" is a key of a file format.
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
    if path.parent.name not in {"families", "methods"}:
        assert named(path.read_text(encoding="utf-8"), kinds() - FORMATS.get(path.parent.name, set())) == set()


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
    folders = [ROOT / name for name in ("src", "tests", "starter_training", "benchmarks", "examples")]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    assert [relative(path) for path in files if NAMELESS & set(path.relative_to(ROOT).with_suffix("").parts)] == []


def loaded_after(statement: str) -> set[str]:
    """The heavy libraries that a fresh Python has loaded after a statement."""
    code = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print('\\n', *sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("\n ", 1)[-1].split()) & set(HEAVY)


def test_importing_costs_nothing() -> None:
    assert loaded_after("import mascot; dir(mascot)") == set()


def test_help_loads_nothing_heavy() -> None:
    assert loaded_after("sys.argv[:] = ['mascot', '--help']; from mascot.cli.app import main; main()") == set()


def test_a_heavy_import_is_noticed() -> None:
    assert loaded_after("import numpy") == {"numpy"}


def test_a_connection_to_another_machine_is_noticed() -> None:
    with socket.socket() as connection, pytest.raises(pytest.fail.Exception, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))


def test_this_machine_may_be_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        assert connection.getpeername() == server.getsockname()


MOST_ENTRIES = 20
FILES_OF_A_ROOM = range(4, 13)
LONGEST_FUNCTION = 40
LONGEST_CLASS = 150
LONGEST_FILE = 430
LONGEST_SENTENCE = 25
DATA = {"presets", "starter"}
"""Folders of package data, which are no rooms."""

ROOMS = sorted(
    path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE and path.parent.name not in DATA
)


def contents(folder: Path) -> list[str]:
    """What a person sees in a folder, without package markers and caches."""
    hidden = {"__init__.py", "__pycache__", "py.typed"}
    return sorted(path.name for path in folder.iterdir() if path.name not in hidden)


def test_the_package_shows_its_architecture_at_a_glance() -> None:
    assert len([*contents(PACKAGE), "__init__.py"]) <= MOST_ENTRIES


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_room_holds_neither_one_thing_nor_everything(room: Path) -> None:
    assert len(contents(room)) in FILES_OF_A_ROOM, contents(room)


@pytest.mark.parametrize("room", ROOMS, ids=relative)
def test_a_room_says_what_lives_in_it(room: Path) -> None:
    tree = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr], "a room's __init__ is its README and nothing else"
    assert len((ast.get_docstring(tree) or "").splitlines()) >= 4


def layers() -> list[set[str]]:
    """The rooms by layer, the lowest first, as import-linter's contract lists them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [set(re.findall(r"\w+", line)) for line in reversed(listed)]


def modules_imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports anywhere, by dotted name without `mascot.`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mascot."):
            module = str(node.module).removeprefix("mascot.")
            for alias in node.names:
                inside = PACKAGE / module.replace(".", "/") / f"{alias.name}.py"
                yield f"{module}.{alias.name}" if inside.exists() else module


def upward(path: Path, order: list[set[str]]) -> list[str]:
    """The imports of a file that climb to its own layer's other rooms, or above."""
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    level = {name: number for number, layer in enumerate(order) for name in layer}
    rooms = ((module, module.partition(".")[0]) for module in modules_imported(path))
    return [module for module, other in rooms if other != room and level[other] >= level[room]]


@pytest.mark.parametrize("path", [path for path in SOURCES if path != PACKAGE / "__init__.py"], ids=relative)
def test_no_room_imports_upward(path: Path) -> None:
    assert upward(path, layers()) == []


def test_an_import_upward_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photos.py").write_text("def f():\n    from mascot.api.train import train\n", encoding="utf-8")
    assert upward(tmp_path / "data" / "photos.py", layers()) == ["api.train"]


def test_no_file_reaches_itself_by_imports() -> None:
    names = {path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in SOURCES}
    graph = {name: set(modules_imported(path)) for path, name in names.items()}
    TopologicalSorter(graph).prepare()  # which raises CycleError, with the circle


def longest(path: Path, kinds: tuple[type[ast.AST], ...]) -> dict[str, int]:
    """Lines of each definition of some kinds."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in nodes if isinstance(node, kinds)}  # pyright: ignore[reportAttributeAccessIssue,reportUnknownVariableType]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    functions = longest(path, (ast.FunctionDef, ast.AsyncFunctionDef))
    assert {name: lines for name, lines in functions.items() if lines > LONGEST_FUNCTION} == {}
    assert {name: lines for name, lines in longest(path, (ast.ClassDef,)).items() if lines > LONGEST_CLASS} == {}


def test_no_class_name_stands_twice() -> None:
    found = Counter(name for path in SOURCES for name in longest(path, (ast.ClassDef,)))
    assert [name for name, count in found.items() if count > 1] == []


def sentences(docstring: str) -> list[str]:
    """The sentences of a docstring's first paragraph, without code."""
    first = re.sub(r"`[^`]*`", "code", docstring.partition("\n\n")[0])
    return re.split(r"(?<=[.:;?!])\s+", " ".join(first.split()))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_docstring_begins_with_a_short_sentence(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = [tree, *(node for node in ast.walk(tree) if isinstance(node, Documented))]
    first = {getattr(node, "name", "module"): sentences(ast.get_docstring(node) or "")[0] for node in documented}
    assert {name: said for name, said in first.items() if len(said.split()) > LONGEST_SENTENCE} == {}


OLD_WORDS = frozenset(
    """
    ailment ails easel exhibits judges learner leg material picture pictures referee stretch
    symptoms taught told untouched worn
    """.split()
)
"""Words that are not the field's, which are image, conditioning, failure mode, trained, ..."""


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_one_thing_has_one_word(path: Path) -> None:
    names = {
        part
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in identifiers(node)
        for part in snake(name).split("_")
    }
    assert names & OLD_WORDS == set()
