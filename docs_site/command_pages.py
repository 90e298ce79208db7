"""The reference of the commands, from the program's own definition."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from docs_site.page_text import code, sentence, table
from mascot.cli import app

KINDS = {str: "text", int: "whole number", float: "number", Path: "path", bool: "switch"}
INTRODUCTION = """# Commands

This page is made from the program itself. `mascot COMMAND --help` prints the same.

Exit codes: 0 is success. 2 is a user's mistake, with one sentence on stderr that says what to do.
130 (Ctrl-C) and 143 (SIGTERM) are interruptions, with finished work kept.
"""


def command_page() -> str:
    """Write the page of all commands, in the order of `mascot --help`."""
    commands: dict[str, Any] = getattr(typer.main.get_command(app.app), "commands", {})
    head = [f"- [`mascot {name}`](#mascot-{name}): {summary_of(command)}" for name, command in commands.items()]
    return "\n".join([INTRODUCTION, *head, "", *(command_section(*pair) for pair in commands.items())])


def summary_of(command: Any) -> str:
    """Return the first sentence of a command's help."""
    return sentence(" ".join(str(command.help).partition("\n\n")[0].split()).partition(". ")[0])


def command_section(name: str, command: Any) -> str:
    """Write what a command does, how it is called, and its arguments and options."""
    arguments = [parameter for parameter in command.params if not is_option(parameter)]
    options = [parameter for parameter in command.params if is_option(parameter) and parameter.name != "help"]
    words = [f"[{word_of(one)}]" if not one.required else word_of(one) for one in arguments]
    usage = " ".join(["mascot", name, *words, *(["[OPTIONS]"] if options else [])])
    parts = [f"## mascot {name}\n", sentence(" ".join(str(command.help).split())), f"\n```text\n{usage}\n```\n"]
    if arguments:
        parts.append(table(["argument", "what it is"], ([code(word_of(one)), sentence(one.help)] for one in arguments)))
    for heading, members in panels(options):
        parts += [f"**{heading}**\n"] if heading else []
        parts.append(table(["option", "takes", "default", "what it does"], map(option_row, members)))
    return "\n".join(parts)


def panels(options: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Group options under the headings of the help; those without a heading come first."""
    for heading, members in groupby(options, key=lambda option: option.rich_help_panel or ""):
        yield heading, list(members)


def is_option(parameter: Any) -> bool:
    """Tell whether a parameter is an option, not an argument."""
    return str(parameter.opts[0]).startswith("-")


def word_of(argument: Any) -> str:
    """Return how an argument stands in the usage."""
    names = str(argument.metavar or argument.name).upper().split(", ")
    return " ".join(f"{name}..." if argument.nargs == -1 else name for name in names)


def option_row(option: Any) -> list[str]:
    """Write a row of the table of options."""
    names = ", ".join(code(name) for name in [*option.opts, *option.secondary_opts])
    required = "required" if option.required else ""
    default = "" if option.default in {None, ""} or option.is_flag or not option.show_default else str(option.default)
    return [names, takes(option), required or code(default), sentence(option.help or "")]


def takes(option: Any) -> str:
    """Describe what an option takes: a kind of value with its range, or names to choose from."""
    kinds = list(plain_kinds(option.type_descriptor.annotation))
    names = [str(name) for kind in kinds if get_origin(kind) is typing.Literal for name in get_args(kind)]
    if names:
        return ", ".join(map(code, names))
    if bool in kinds:
        return "switch"
    kind = next((KINDS[kind] for kind in kinds if kind in KINDS), "text")
    return " ".join(filter(None, [kind, range_of(option.min, option.max), "(repeatable)" if option.multiple else ""]))


def range_of(low: object, high: object) -> str:
    """Describe a range with both, one or no end."""
    if low is not None and high is not None:
        return f"from {low} to {high}"
    if low is not None:
        return f"from {low}"
    return f"up to {high}" if high is not None else ""


def plain_kinds(annotation: Any) -> Iterator[Any]:
    """List the types of a union or of a list's members."""
    if get_origin(annotation) in {typing.Union, types.UnionType, list, tuple}:
        for kind in get_args(annotation):
            yield from plain_kinds(kind)
    else:
        yield annotation
