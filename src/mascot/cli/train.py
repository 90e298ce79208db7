"""The commands `train` and `doctor`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mascot.cli.options import (
    Base,
    ClassNoun,
    Overrides,
    Photos,
    RecipeFile,
    RecipeOptions,
    Seed,
    Steps,
    Token,
    build_recipe,
    recipe_values,
)
from mascot.errors import UserError, escape_control
from mascot.methods.registry import METHODS
from mascot.progress import Event, OnEvent

if TYPE_CHECKING:
    from rich.console import Console

    from mascot.api.installation.machine_report import MachineReport
    from mascot.recipe.recipe import Recipe

MethodName = Annotated[
    str | None,
    typer.Option(help=f"Training method: {', '.join(METHODS)}.", show_default=False),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder of the run. By default a new one under runs/.", show_default=False)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume the run in --out exactly where it stopped; with more --steps, extend it."),
]
StartFrom = Annotated[
    str | None,
    typer.Option("--from", help="Start from an adapter: a run, RUN@200 or an adapter file.", show_default=False),
]
ClassImages = Annotated[
    Path | None,
    typer.Option(help="Folder of your own class images; topped up by generated ones.", show_default=False),
]
CaptionWith = Annotated[
    str | None,
    typer.Option(help="Model that captions photos without a caption: folder or hub id.", show_default=False),
]
Events = Annotated[
    Path | None,
    typer.Option(help="File that gets each progress event as a line of JSON, for other programs.", show_default=False),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Read photos in subfolders, too.")]
Measure = Annotated[
    bool, typer.Option(help="Load the base model and time a few steps; without photos, train the canary.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Without photos: print what was found as JSON.")]
IssueReport = Annotated[
    Path | None,
    typer.Option("--report", help="Without photos: write what was found for an issue.", show_default=False),
]


def train(
    photos: Photos = None,
    *,
    class_noun: ClassNoun = None,
    base: Base = None,
    method: MethodName = None,
    token: Token = None,
    recipe: RecipeFile = None,
    overrides: Overrides = None,
    steps: Steps = None,
    seed: Seed = None,
    start_from: StartFrom = None,
    class_images: ClassImages = None,
    caption_with: CaptionWith = None,
    recursive: Recursive = False,
    out: Out = None,
    resume: Resume = False,
    events: Events = None,
) -> None:
    """Train a base model on the photos of one subject. Writes an adapter and a report."""
    options: RecipeOptions = {
        "photos": photos,
        "class_noun": class_noun,
        "base": base,
        "overrides": overrides,
        "token": token,
        "seed": seed,
        "method": method,
        "steps": steps,
        "start_from": start_from,
        "class_images": class_images,
        "caption_with": caption_with,
        "recursive": recursive,
    }
    from mascot.storage.event_log import logging_events

    with logging_events(events) as log:
        made = stopped_recipe(out, recipe, options) if resume else build_recipe(recipe, **options)
        show_training(made, out, resume=resume, log=log)


def stopped_recipe(out: Path | None, file: Path | None, options: RecipeOptions) -> Recipe:
    """Read the recipe of a run that is to be resumed, with the changes that the options make.

    Raises:
        UserError: the folder is missing or holds no run, or a change is not possible.
    """
    from mascot.recipe.overrides import merge, parse_overrides, read_toml
    from mascot.recipe.subject_tables import tables_in
    from mascot.runs.resumed_recipe import resumed_recipe
    from mascot.storage.run_folder import open_run

    if out is None:
        raise UserError("--resume needs the run's folder: give --out RUN.")
    if file is not None:
        raise UserError(f"--resume takes the recipe of {out}, not a --recipe; change single keys with --set.")
    overrides, given = recipe_values(tables_in(read_toml(open_run(out).recipe)), **options)
    changes = {key: value for key, value in given.items() if value is not None}
    return resumed_recipe(out, merge(changes, parse_overrides(overrides)))


def show_training(recipe: Recipe, out: Path | None, *, resume: bool, log: OnEvent) -> None:
    """Train with a progress bar, and print where the adapter and the report are.

    `log` gets each event too.
    """
    from mascot.api.train import train as train_recipe
    from mascot.cli.console import open_display, show_diagnosis

    with open_display() as display:

        def show(event: Event) -> None:
            display(event)
            log(event)

        run = train_recipe(recipe, out=out, resume=resume, on_event=show)
    show_diagnosis(display)
    display.say(f"adapter: {run.adapter}\nreport:  {run.report}")


def doctor(
    photos: Photos = None,
    *,
    class_noun: ClassNoun = None,
    base: Base = None,
    method: MethodName = None,
    token: Token = None,
    recipe: RecipeFile = None,
    overrides: Overrides = None,
    steps: Steps = None,
    seed: Seed = None,
    start_from: StartFrom = None,
    class_images: ClassImages = None,
    caption_with: CaptionWith = None,
    recursive: Recursive = False,
    measure: Measure = True,
    as_json: AsJson = False,
    report: IssueReport = None,
) -> None:
    """Check photos and settings before training; without photos, check this machine."""
    options: RecipeOptions = {
        "photos": photos,
        "class_noun": class_noun,
        "base": base,
        "overrides": overrides,
        "token": token,
        "seed": seed,
        "method": method,
        "steps": steps,
        "start_from": start_from,
        "class_images": class_images,
        "caption_with": caption_with,
        "recursive": recursive,
    }
    if recipe is None and not any(value is not None and value is not False for value in options.values()):
        show_machine(measure=measure, as_json=as_json, report=report)
        return
    check_about_machine(as_json=as_json, report=report)
    show_checkup(build_recipe(recipe, **options), measure=measure)


def check_about_machine(*, as_json: bool, report: Path | None) -> None:
    """Refuse the options of the check of a machine where photos or settings are checked.

    Raises:
        UserError: one of them is given.
    """
    given = ["--json"] * as_json + ["--report"] * (report is not None)
    if given:
        raise UserError(
            f"{' and '.join(given)} belong to the check of this machine, and photos or settings are checked here; "
            "run mascot doctor with nothing else."
        )


def show_machine(*, measure: bool, as_json: bool, report: Path | None) -> None:
    """Check this machine, print what was found, and write it for an issue if that is asked for.

    Raises:
        UserError: something keeps mascot from working here, or the report cannot be written.
    """
    from rich.console import Console

    from mascot.api.installation.check_machine import check_machine
    from mascot.api.installation.issue_report import write_issue_report
    from mascot.cli.console import plain_display
    from mascot.storage.atomic_write import check_free

    if report is not None:
        check_free(report)
    with suppress(Exception):  # it quiets the libraries; one that cannot be imported is found by the check
        plain_display()
    console = Console(stderr=as_json)
    with console.status("checking this machine: the canary takes about 20 seconds" if measure else "checking"):
        found = check_machine(measure=measure)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_machine(console, found)
    if report is not None:
        write_issue_report(found, report)
        typer.echo(f"report: {report}", err=as_json)
    if found.errors:
        raise UserError(f"{found.errors[0].message} {found.errors[0].remedy}")


def print_machine(console: Console, found: MachineReport) -> None:
    """Print facts by section, then what is wrong, with remedies."""
    from mascot.cli.console import show_rows

    for section in found.sections:
        rows = [(fact.name, f"{fact.value} ({fact.place})" if fact.place else fact.value) for fact in section.facts]
        show_rows(console, section.title, rows)
        console.print()
    for finding in found.findings:
        style = None if finding.severity == "note" else "yellow"
        text = escape_control(f"{finding.severity}: {finding.message} {finding.remedy}")
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    if not found.errors:
        trained = any(section.title == "canary" for section in found.sections)
        console.print("mascot works on this machine." if trained else "Nothing is wrong; no canary was trained.")


def show_checkup(recipe: Recipe, *, measure: bool) -> None:
    """Inspect photos and settings, and print what was found."""
    from mascot.api.doctor import doctor as inspect
    from mascot.cli.console import plain_display, show_rows
    from mascot.data.captioning.caption_variants import first_variant
    from mascot.data.prompt_templates import expand
    from mascot.runs.opening import describe_photos

    display = plain_display()
    report = inspect(recipe, measure=measure)
    display(describe_photos(report.photos))
    for finding in report.audit.findings:
        style = "yellow" if finding.severity == "warning" else None
        display.say(f"{finding.severity}: {finding.message} {finding.remedy}", style=style)
    show_rows(display.console, "effective settings", report.settings)
    captions = [text for written in recipe.dataset.templates for text in expand(first_variant(written), report.subject)]
    display.say(f"caption of photos that have none: {' | '.join(captions)}")
