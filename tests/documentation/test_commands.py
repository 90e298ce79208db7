"""Laws of the documentation's code: commands, keys and calls exist, and are run or say why not."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import mascot as package
from documentation.commands_not_run import NOT_RUN, NOT_RUN_BEGINNINGS, reason_not_to_run
from documentation.documented_commands import Documented, commands, mentions, mistakes, pages, recipe_keys
from documentation.markdown_pages import blocks, inline_code, name_of
from mascot.recipe.recipe import Recipe

COMMANDS, MENTIONS, PAGES = commands(), mentions(), pages()
FILES = {"csv", "html", "json", "jsonl", "md", "png", "py", "safetensors", "toml", "txt"}
"""Endings of files: `report.html` is no key of the section `report`."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_exists(page: Path) -> None:
    """Its program, options, values and recipe keys; inside a line, arguments may be left out."""
    found = {one.text: mistakes(one) for one in COMMANDS if one.page == page}
    found |= {one.text: mistakes(one, whole=False) for one in MENTIONS if one.page == page}
    assert {text: wrong for text, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    "text",
    [
        "mascot trains photos/",
        "mascot train photos/ --class dog",
        "mascot train photos/ --set method.ranks=4",
        "mascot generate runs/owl 'a dog' --count none",
        "mascot compare runs/a",
        "python examples/no_such_script.py",
        "python benchmarks/training.py --no-such-option",
        "pip install '.[gpu]'",
        "make tests",
        "rm -rf photos/",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(text: str) -> None:
    assert len(mistakes(Documented(PAGES[0], text))) == 1


def test_what_is_not_run_is_in_the_documentation() -> None:
    """A command that was taken out leaves the list, too."""
    texts = {command.text for command in COMMANDS}
    assert [text for text in NOT_RUN if text not in texts] == []
    assert [begin for begin in NOT_RUN_BEGINNINGS if not any(text.startswith(begin) for text in texts)] == []


def test_only_commands_of_mascot_and_examples_are_run() -> None:
    """Others change the machine: each is listed by name."""
    run = [command for command in COMMANDS if reason_not_to_run(command.text) is None]
    assert [command.name for command in run if not command.text.startswith(("mascot ", "python examples/"))] == []


def unknown_keys(page: Path) -> Iterator[str]:
    """The recipe keys inside a page's lines that no recipe has."""
    sections = {name for name, info in Recipe.model_fields.items() if "." not in name and info.annotation is not str}
    for text in inline_code(page):
        for section, key in re.findall(r"(?<![\w./])([a-z]+)\.([a-z_.]+)(?=[=`]|$)", text):
            if section in sections and key.rpartition(".")[2] not in FILES and f"{section}.{key}" not in recipe_keys():
                yield f"{section}.{key}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_every_recipe_key_is_one_that_exists(page: Path) -> None:
    assert list(unknown_keys(page)) == []


def test_a_recipe_key_that_does_not_exist_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`method.ranks=4`, `training.steps`, `--set prior.weights=1`, `report.html`, `selection.*`\n")
    assert list(unknown_keys(page)) == ["method.ranks", "prior.weights"]


def keys_of(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The dotted keys of nested values; those of the first of several tables."""
    for name, value in values.items():
        key = f"{path}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            yield from keys_of(value, key)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from keys_of(value[0], key)
        else:
            yield key


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_has_only_keys_that_exist(page: Path) -> None:
    written = [tomllib.loads(block.text) for block in blocks(page) if block.language == "toml"]
    assert [key for values in written for key in keys_of(values) if key not in recipe_keys()] == []


def call_mistakes(source: str) -> Iterator[str]:
    """The calls of `mascot` that do not exist, and arguments that are not taken."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, node.func.value
            if not (isinstance(owner, ast.Name) and owner.id == "mascot"):
                continue
            if name not in package.__all__:
                yield f"mascot.{name}"
                continue
            taken = inspect.signature(getattr(package, name)).parameters
            more = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
            yield from (f"{name}({word.arg}=)" for word in node.keywords if word.arg not in taken and not more)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_piece_of_python_calls_what_exists(page: Path) -> None:
    sources = [block.text for block in blocks(page) if block.language == "python"]
    sources += [code for code in inline_code(page) if re.fullmatch(r"mascot\.\w+\(.*\)", code)]
    assert [wrong for source in sources for wrong in call_mistakes(source)] == []


def test_a_call_that_does_not_exist_is_noticed() -> None:
    assert list(call_mistakes("import mascot\nmascot.draw(1)\nmascot.train(recipe, output='x')")) == [
        "mascot.draw",
        "train(output=)",
    ]
