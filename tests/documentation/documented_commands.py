"""The commands of the documentation, and what is checked of each without running it."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from documentation.markdown_pages import ROOT, Block, all_pages, blocks, inline_code, name_of
from laws.choices import all_settings
from mascot.cli.app import app

COMMANDS: Mapping[str, Any] = getattr(typer.main.get_command(app), "commands", {})
SHELLS = {"sh", "bash"}
SHELL_WORDS = ("for ", "done", ". ")
"""Beginnings of lines that belong to the shell."""
OTHER_PROGRAMS = {"git", "hf", "unzip"}
"""Programs that are not ours; their options are theirs."""


@dataclass(frozen=True, slots=True)
class Documented:
    """A command of a page."""

    page: Path
    text: str
    """The command as it stands there, without comments, on one line."""

    @property
    def words(self) -> list[str]:
        """Its words as a shell reads them."""
        return shlex.split(self.text)

    @property
    def program(self) -> str:
        """The program's name without its place."""
        return Path(self.words[0]).name

    @property
    def name(self) -> str:
        """The command's name in tests."""
        return f"{name_of(self.page)}: {self.text}"


def pages() -> list[Path]:
    """The pages whose commands are checked."""
    return [page for page in all_pages() if not page.is_relative_to(ROOT / "src")]


def commands() -> list[Documented]:
    """Every command that stands in a block of code."""
    return [Documented(page, text) for page in pages() for text in page_commands(page)]


def page_commands(page: Path) -> Iterator[str]:
    """The commands in a page's blocks of shell code."""
    for block in blocks(page):
        if block.language in SHELLS:
            yield from block_commands(block)


def block_commands(block: Block) -> Iterator[str]:
    """The commands of a block, with continued lines joined and comments left out."""
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        words = shlex.split(line, comments=True)
        if words and not line.strip().startswith(SHELL_WORDS):
            yield shlex.join(words)


def mentions() -> list[Documented]:
    """Every command inside a line, or after a prompt in a text; it may have placeholders."""
    found: list[Documented] = []
    for page in pages():
        if page.name == "CHANGELOG.md":  # which also names what was renamed
            continue
        texts = [code for code in inline_code(page) if code.startswith("mascot ") and balanced(code)]
        texts += [
            line[2:] for block in blocks(page) for line in block.text.splitlines() if line.startswith("$ mascot ")
        ]
        found += [Documented(page, " ".join(text.split())) for text in texts]
    return found


def balanced(text: str) -> bool:
    """Tell whether a shell could read a text: its quotes are closed."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def mistakes(command: Documented, *, whole: bool = True) -> list[str]:
    """What is wrong with a command: unknown programs, options, keys and values.

    `whole` is false for a mention, which may lack arguments and have placeholders.
    """
    words = command.words
    match command.program:
        case "mascot":
            return mascot_mistakes(words[1:], whole=whole)
        case "python" | "python3":
            return python_mistakes(words[1:])
        case "pip":
            return pip_mistakes(words[1:])
        case "make":
            return [f"no target {target}" for target in words[1:] if target not in make_targets()]
        case "--set":  # the end of a command line
            return key_mistakes(words)
        case program:
            return [] if program in OTHER_PROGRAMS else [f"unknown program {program}"]


def mascot_mistakes(arguments: list[str], *, whole: bool) -> list[str]:
    """What is wrong with the arguments of `mascot`."""
    name, *rest = arguments
    if name in {"--version", "--help", "COMMAND"}:
        return []
    if name not in COMMANDS:
        return [f"no command {name}"]
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    found = [f"no option {word} of {name}" for word in rest if word.startswith("--") and word not in {*known, "--help"}]
    return found or [*key_mistakes(rest), *(parse_mistakes(name, rest) if whole else [])]


def parse_mistakes(name: str, arguments: list[str]) -> list[str]:
    """What the program's own parser says of a command's arguments."""
    try:
        COMMANDS[name].make_context(name, list(arguments))
    except Exception as error:  # noqa: BLE001 - whatever it says is a mistake of the page
        return [str(getattr(error, "message", error)) or type(error).__name__]
    return []


def key_mistakes(words: list[str]) -> list[str]:
    """The settings after `--set` that no recipe has."""
    given = [after.partition("=")[0] for word, after in pairwise(words) if word == "--set"]
    return [f"no recipe key {key}" for key in given if key not in recipe_keys() and not key.isupper()]


@cache
def recipe_keys() -> frozenset[str]:
    """Every key of a recipe, of any method."""
    return frozenset(key for _, key, _ in all_settings()) | {"method.name"}


def python_mistakes(arguments: list[str]) -> list[str]:
    """What is wrong with a call of Python: a script or an option that is not there."""
    if arguments[0] == "-m":
        module, *rest = arguments[1:]
        if module in {"venv", "http.server", "pytest"}:
            return []
        place = ROOT / module
        sources = list(place.rglob("*.py"))
    else:
        script, *rest = arguments
        place = ROOT / script
        sources = list(place.parent.glob("*.py"))
    if not place.exists():
        return [f"{place} is not there"]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    options = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return [f"no option {option}" for option in options if not has_option(text, option)]


def has_option(source: str, option: str) -> bool:
    """Tell whether a program's source declares an option, by its name or by a parameter's."""
    name = option[2:].replace("-", "_")
    return f'"{option}"' in source or re.search(rf"\b{name}: ", source) is not None


def pip_mistakes(arguments: list[str]) -> list[str]:
    """The extras of `mascot` that do not exist."""
    listed = [extra for word in arguments for extra in re.findall(r"(?:mascot|\.)\[([\w,]+)\]", word)]
    return [f"no extra {name}" for group in listed for name in group.split(",") if name not in extras()]


def extras() -> set[str]:
    """The optional extras of the package."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return set(settings["project"]["optional-dependencies"])


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
