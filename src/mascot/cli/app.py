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

from mascot.cli.adapters import convert, inspect, publish
from mascot.cli.evaluate import compare, diagnose, evaluate
from mascot.cli.generate import generate
from mascot.cli.interruptions import INTERRUPTED, ending_on_signals, exit_code
from mascot.cli.merge import extract, merge, resize
from mascot.cli.studio import studio
from mascot.cli.suite import suite
from mascot.cli.sweep import sweep, token
from mascot.cli.train import doctor, train
from mascot.errors import UserError, escape_control, is_out_of_memory, received, shorten
from mascot.storage.strict_parsing import is_unicode

SUMMARY = (
    "Train a text-to-image model on a few photos of one subject, generate it in any context, and measure the result."
)
COMMANDS = (
    train,
    generate,
    evaluate,
    suite,
    diagnose,
    compare,
    sweep,
    token,
    inspect,
    convert,
    merge,
    extract,
    resize,
    publish,
    doctor,
    studio,
)

FREE_MEMORY = "close other programs, or use a machine with more memory"
SMALLER = {
    "generate": "give a smaller --size, or close other programs",
    "train": "give a smaller --base or --set dataset.resolution=64 (say), or close other programs",
    "doctor": "give a smaller --base or --set dataset.resolution=64 (say), or close other programs",
}
"""Command -> what helps where something that it loads or computes does not fit the memory."""

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

    Exit codes: 0 success; 2 user error, one sentence on stderr; 130 after Ctrl-C and 143 after
    SIGTERM, finished work is kept.
    """
    # The libraries read these when they are imported. A user cannot act on their notices, and
    # mascot itself reports how a download ended.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    prepare_output()
    with ending_on_signals():
        try:
            check_arguments(sys.argv[1:])
            code = app(prog_name="mascot", standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:  # noqa: BLE001 - what is no user error is raised again
            code = INTERRUPTED if received else explain(error)
        if code == INTERRUPTED:  # typer turns most interruptions into this code, without a message
            code = exit_code()
            typer.echo("mascot: interrupted; finished work is kept.", err=True)
    sys.exit(code or 0)


def explain(error: Exception) -> int:
    """Print what a user can mend, and return the exit code; other errors are raised again."""
    if isinstance(error, UserError):
        return refuse(str(error))
    if isinstance(error, TyperException):
        return refuse(describe_usage(error))
    if isinstance(error, OSError) and error.strerror is not None:  # without, it is a bug of ours
        return refuse(describe_system_error(error))
    if is_out_of_memory(error):
        return refuse(f"there is too little memory; {next(filter(None, map(SMALLER.get, sys.argv)), FREE_MEMORY)}.")
    raise error


class NoticeHandler(logging.Handler):
    """Prints mascot's own warnings, each in one line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        typer.echo(f"mascot: {escape_control(' '.join(record.getMessage().split()))}", err=True)


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
    typer.echo(f"mascot: {escape_control(' '.join(sentence.split()))}", err=True)
    return 2
