"""The program `mascot`: its commands, its exit codes, and how it refuses."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from mascot.cli.evaluate import compare, diagnose, evaluate
from mascot.cli.generate import generate
from mascot.cli.suite import suite
from mascot.cli.sweep import sweep, token
from mascot.cli.train import doctor, train
from mascot.errors import UserError

SUMMARY = (
    "Teach a text-to-image model one subject from a few photos, generate it in any context, and measure how good it is."
)
COMMANDS = (train, generate, evaluate, suite, diagnose, compare, sweep, token, doctor)
INTERRUPTED = 130

app = typer.Typer(
    name="mascot", add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=SUMMARY
)
for command in COMMANDS:
    app.command()(command)


def show_version(*, value: bool) -> None:
    """Print the version and stop."""
    if value:
        from mascot import __version__

        typer.echo(f"mascot {__version__}")
        raise typer.Exit


@app.callback(help=SUMMARY)
def main_options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Accept the options that stand before a command."""
    del version


def main() -> None:
    """Run a command. Exit codes: 0 success, 2 user error (one sentence on stderr), 130 interrupted with everything saved."""
    # transformers reads this when it is imported; its notices say nothing that a user could act on.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault(
        "HF_HUB_VERBOSITY", "error"
    )  # as above; it tells every try of a download, and then we say the outcome
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        code = app(prog_name="mascot", standalone_mode=False)
    except UserError as error:
        code = refuse(str(error))
    except TyperException as error:
        code = refuse(describe_usage(error))
    except OSError as error:
        if error.strerror is None:  # not the system's own refusal: a fault of ours
            raise
        code = refuse(describe_system_error(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns most interruptions into this code by itself, without a word
        typer.echo("mascot: interrupted; finished work is kept.", err=True)
    sys.exit(code or 0)


def describe_usage(error: TyperException) -> str:
    """Say what is wrong with a command line, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mascot"
    message = error.format_message().strip() or "No command is given."
    return f"{message if message[-1] in '.?!' else f'{message}.'} See {command} --help."


def describe_system_error(error: OSError) -> str:
    """Say which file the operating system refused, why, and what helps."""
    from mascot.storage.atomic_write import REMEDIES

    remedy = REMEDIES.get(error.errno or 0, "choose another place")
    return f"{error.filename or 'a file'} cannot be used ({error.strerror}); {remedy}."


def refuse(sentence: str) -> int:
    """Print what is wrong in one line; returns the exit code."""
    typer.echo(f"mascot: {' '.join(sentence.split())}", err=True)
    return 2
