"""The commands `evaluate`, `diagnose` and `compare`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mascot.cli.options import (
    AdapterBase,
    Clip,
    Device,
    FirstSeed,
    Identity,
    Images,
    RunOrAdapter,
    given_options,
    parse_folds,
    read_place,
)
from mascot.errors import UserError

if TYPE_CHECKING:
    from mascot.api.evaluate import EvaluateOptions

Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Runs (RUN@200,400 for kept steps) or adapter files; with --real, folders of photos.",
        show_default=False,
        parser=read_place,
    ),
]
Real = Annotated[
    bool, typer.Option("--real", help="Score photos against each other: the upper limit of a run's likeness.")
]
ReportPrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", help="Use this prompt instead of the report's; {subject} names the subject.", show_default=False
    ),
]
Live = Annotated[
    bool | None,
    typer.Option(
        "--live/--thing",
        help="Whether the subject can wear things. By default its class noun decides.",
        show_default=False,
    ),
]
ReferencePhotos = Annotated[
    list[Path] | None,
    typer.Option(
        help="Photos to compare with, instead of the run's; those not trained on count as held out. Several subjects "
        "take one folder each.",
        show_default=False,
    ),
]
CrossValidate = Annotated[
    str | None,
    typer.Option(
        help="Train again without each photo in turn, all or a number of them, for a copy score.", show_default=False
    ),
]
ProbePrompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", help="Use this prompt instead of mascot's own; {subject} names the subject.", show_default=False
    ),
]
ComparisonPhotos = Annotated[
    list[Path] | None,
    typer.Option(
        help="Photos to compare with, instead of the run's; several subjects take one folder each.", show_default=False
    ),
]
One = Annotated[
    Path, typer.Argument(help="An evaluated run (RUN@200 for a kept step) or adapter file.", parser=read_place)
]
Other = Annotated[Path, typer.Argument(help="Another one, evaluated with the same options.", parser=read_place)]
ComparisonPage = Annotated[
    Path | None,
    typer.Option("--out", help="HTML page to write. By default in the first run's folder.", show_default=False),
]


def evaluate(
    context: typer.Context,
    runs: Runs,
    *,
    real: Real = False,
    prompts: ReportPrompts = None,
    images: Images = 4,
    seed: FirstSeed = 0,
    live: Live = None,
    photos: ReferencePhotos = None,
    cross_validate: CrossValidate = None,
    identity: Identity = None,
    clip: Clip = None,
    base: AdapterBase = None,
    device: Device = "auto",
) -> None:
    """Score runs in one table: likeness, prompt fidelity, diversity, class drift, copying."""
    if real:
        if unused := given_options(context, "prompts", "images", "seed", "live", "photos", "cross_validate"):
            raise UserError(
                f"--real generates nothing, so {unused[0]} has no effect; give folders of photos with --identity, "
                "--clip, --base and --device alone."
            )
        show_calibration(runs, identity=identity, clip=clip, base=base, device=device)
        return
    from mascot.storage.run_folder import split_steps

    options: EvaluateOptions = {
        "diagnosed": True,
        "prompts": prompts or None,
        "images": images,
        "seed": seed,
        "live": live,
        "photos": photos or (),
        "identity": identity,
        "clip": clip,
        "base": base,
        "device": device,
    }
    show_scores([one for run in runs for one in split_steps(run)], options, folds=parse_folds(cross_validate))


def show_scores(runs: list[Path], options: EvaluateOptions, *, folds: int | Literal["all"] | None) -> None:
    """Evaluate each run with a progress bar, and print one table of all."""
    from rich.console import Console

    from mascot.api.evaluate import check_evaluable
    from mascot.api.evaluate import evaluate as evaluate_run
    from mascot.api.experiments.cross_validate import cross_validate
    from mascot.cli.console import Display, open_bar, quiet_libraries, show_diagnosis, show_table
    from mascot.evaluation.score_tables import folds_table, means_table, runs_table, subjects_tables

    quiet_libraries()
    console = Console()
    if len(runs) > 1 and options.get("photos"):
        raise UserError("--photos are of one subject; evaluate one run at a time with them.")
    for run in runs[1:]:  # before hours are spent on the first
        check_evaluable(run, options)
    evaluate_one = partial(evaluate_run, **options)
    if folds is not None:
        evaluate_one = partial(cross_validate, folds=None if folds == "all" else folds, **options)
    with open_bar(console) as bar:
        displays = [Display(console, bar, str(run)) for run in runs]
        scores = [evaluate_one(run, on_event=display) for run, display in zip(runs, displays, strict=True)]
    between = [table for one in scores for table in subjects_tables(one)]
    for table in (
        runs_table(scores),
        *between,
        means_table(scores),
        *(folds_table(one) for one in scores if one.folds),
    ):
        show_table(console, table)
    for display in displays:
        show_diagnosis(display)
        display.say(f"report: {display.files['report']}")


def show_calibration(
    folders: list[Path], *, identity: str | None, clip: str | None, base: str | None, device: str
) -> None:
    """Print how real photos score against each other."""
    from rich.console import Console

    from mascot.api.calibrate import calibrate
    from mascot.cli.console import quiet_libraries, show_table
    from mascot.evaluation.score_tables import calibration_table
    from mascot.models.starter import EMBEDDED

    quiet_libraries()
    rows, encoders = calibrate(
        folders, base=EMBEDDED if base is None else base, identity=identity, clip=clip, device=device
    )
    show_table(Console(), calibration_table(rows, encoders))


def diagnose(
    run: RunOrAdapter,
    *,
    prompts: ProbePrompts = None,
    photos: ComparisonPhotos = None,
    identity: Identity = None,
    clip: Clip = None,
    base: AdapterBase = None,
    device: Device = "auto",
) -> None:
    """Name the failure modes of a run, each with its number, its images and what to change."""
    from mascot.api.diagnose import diagnose as diagnose_run
    from mascot.cli.console import open_display, show_diagnosis, show_table
    from mascot.evaluation.diagnosis.diagnosis_page import checks_table

    with open_display(str(run)) as display:
        diagnosis = diagnose_run(
            run,
            prompts=prompts or None,
            photos=photos or (),
            identity=identity,
            clip=clip,
            base=base,
            device=device,
            on_event=display,
        )
    show_diagnosis(display)
    for finding in diagnosis.findings:
        display.say(f"\n{finding.severity}: {finding.title}\n{finding.message}")
        for remedy in finding.remedies:
            display.say(f"- {remedy.sentence}")
    display.say("")
    show_table(display.console, checks_table(diagnosis))
    display.say(f"report: {display.files['report']}")


def compare(one: One, other: Other, *, out: ComparisonPage = None) -> None:
    """Compare two evaluated runs by prompt and seed: differences with intervals, and images."""
    from mascot.api.experiments.compare import compare as compare_runs
    from mascot.cli.console import plain_display, show_table
    from mascot.evaluation.score_tables import comparison_table

    display = plain_display()
    comparison = compare_runs(one, other, out=out, on_event=display)
    show_table(display.console, comparison_table(comparison))
    display.say(f"report: {display.files['report']}")
