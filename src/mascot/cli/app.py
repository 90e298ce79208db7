"""The program `mascot`: its commands, its exit codes, and its error messages."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer
from typer.exceptions import TyperException

from mascot.cli.evaluate import compare, diagnose, evaluate
from mascot.cli.generate import generate
from mascot.cli.suite import suite
from mascot.cli.sweep import sweep, token
from mascot.cli.train import doctor, train
from mascot.errors import UserError, shorten
from mascot.storage.strict_parsing import is_unicode

SUMMARY = (
    "Train a text-to-image model on a few photos of one subject, generate it in any context, and measure the result."
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


Version = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
]


@app.callback(help=SUMMARY)
def main_options(*, version: Version = False) -> None:
    """Accept the options that stand before a command."""
    del version


def main() -> None:
    """Run a command and exit.

    Exit codes: 0 success; 2 user error, one sentence on stderr; 130 interrupted, finished work is
    kept.
    """
    # Both libraries read these when they are imported. A user cannot act on their notices, and
    # mascot itself reports how a download ended.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    prepare_output()
    try:
        check_arguments(sys.argv[1:])
        code = app(prog_name="mascot", standalone_mode=False)
    except UserError as error:
        code = refuse(str(error))
    except TyperException as error:
        code = refuse(describe_usage(error))
    except OSError as error:
        if error.strerror is None:  # not the operating system's refusal, but a bug
            raise
        code = refuse(describe_system_error(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns most interruptions into this code, without a message
        typer.echo("mascot: interrupted; finished work is kept.", err=True)
    sys.exit(code or 0)


class NoticeHandler(logging.Handler):
    """Prints mascot's own warnings, each in one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        typer.echo(f"mascot: {' '.join(record.getMessage().split())}", err=True)


def prepare_output() -> None:
    """Let any letter be printed, as an escape where the terminal or pipe has no such letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("mascot")
    if not any(isinstance(handler, NoticeHandler) for handler in logger.handlers):
        logger.addHandler(NoticeHandler(logging.WARNING))


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not UTF-8, which no file that mascot writes could hold.

    Raises:
        UserError: it names the first of them.
    """
    for argument in arguments:
        if not is_unicode(argument):
            shown = os.fsencode(shorten(argument)).decode(errors="backslashreplace")
            raise UserError(f"{shown} is not UTF-8; write it in UTF-8, and rename a file whose name is not.")


def describe_usage(error: TyperException) -> str:
    """Describe what is wrong with a command line, and where its options are listed."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mascot"
    message = error.format_message().strip() or "No command is given."
    return f"{message if message[-1] in '.?!' else f'{message}.'} See {command} --help."


def describe_system_error(error: OSError) -> str:
    """Describe which file the operating system refused, why, and what helps."""
    from mascot.storage.atomic_write import REMEDIES

    remedy = REMEDIES.get(error.errno or 0, "choose another folder")
    return f"{error.filename or 'a file'} cannot be used ({error.strerror}); {remedy}."


def refuse(sentence: str) -> int:
    """Print an error in one line on stderr; returns the exit code."""
    typer.echo(f"mascot: {' '.join(sentence.split())}", err=True)
    return 2
