"""Output in the terminal: a display that renders the events of a job, and tables."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from mascot.api.notebook.library_notices import quiet_libraries
from mascot.errors import check_interrupted, escape_control
from mascot.progress import (
    AdapterReadBack,
    CheckpointChosen,
    ClassImagesStarted,
    DiagnosisFailed,
    DiagnosisFinished,
    Event,
    FileWorkPlanned,
    FileWritten,
    FoldStarted,
    GenerationStarted,
    ImageFitted,
    ImageGenerated,
    KnobsChosen,
    LayersDone,
    PhotosRead,
    PromptRead,
    PromptTruncated,
    RunFinished,
    RunsPlanned,
    ScoringStarted,
    SettingsResolved,
    StepTrained,
    TokenSearchStarted,
    TokenShared,
)

if TYPE_CHECKING:
    from mascot.experiments.leaderboard import Leaderboard
    from mascot.experiments.suite import SuiteScores
    from mascot.reports.table import Table

Shown = TypeVar("Shown", bound=Event)

SMOOTHING = 0.95
"""Decay of the smoothed loss on the progress bar, as single losses vary with their timestep."""


def show_note(event: Event) -> None:
    """Print on stderr what was done to prompts, images and adapters, where stdout lists files."""
    if isinstance(event, PromptTruncated | PromptRead | ImageFitted | TokenShared):
        Console(stderr=True).print(f"note: {event.message}.", markup=False, highlight=False, soft_wrap=True)


class Display:
    """Renders the events of one job (see `RENDERERS`); keeps its diagnosis and files."""

    def __init__(self, console: Console, bar: Progress, name: str = "") -> None:
        self.console, self.bar, self.name = console, bar, name
        self.task: TaskID | None = None
        self.steps = 0
        self.loss: float | None = None
        self.diagnosis: DiagnosisFinished | None = None
        self.files: dict[str, Path] = {}

    def __call__(self, event: Event) -> None:
        """Render one event; events without a renderer are not shown."""
        check_interrupted()
        render = RENDERERS.get(type(event))
        if render is not None:
            render(self, event)

    def say(self, text: str, style: str | None = None) -> None:
        """Print text above the progress bar."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def start(self, what: str, total: int | None) -> None:
        """Add a progress bar."""
        self.task = self.bar.add_task(f"{what} {self.name}".strip(), total=total, loss="")

    def update(
        self, *, advance: int | None = None, completed: int | None = None, description: str | None = None
    ) -> None:
        """Change the present progress bar, if there is one."""
        if self.task is not None:
            self.bar.update(self.task, advance=advance, completed=completed, description=description)

    def show_loss(self, loss: float) -> None:
        """Show a loss beside the present progress bar, smoothed over steps."""
        self.loss = loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
        if self.task is not None:
            self.bar.update(self.task, loss=f"loss {self.loss:.4f}")


Renderer = Callable[[Display, Event], None]
"""Shows one event in the terminal."""


def show_photos(display: Display, event: PhotosRead) -> None:
    """Print which photos are used and which files are not."""
    display.say(f"{len(event.used)} photos: {', '.join(event.used)}")
    for reason in event.refused:
        display.say(f"not used: {reason}", style="yellow")
    for note in event.notes:
        display.say(f"note: {note}")


def show_token_search(display: Display, event: TokenSearchStarted) -> None:
    """Print that a token is searched, and how to skip that."""
    display.say(f"choosing a token, once for this base: {event.images} images; --token WORD skips it")


def show_class_images(display: Display, event: ClassImagesStarted) -> None:
    """Print that class images are generated."""
    display.say(f"generating {event.images} class images with the base model, unless they are cached")


def show_settings(display: Display, event: SettingsResolved) -> None:
    """Print the effective settings, and start the bar of the steps."""
    show_rows(display.console, "effective settings", event.rows)
    if event.selection_images:
        display.say(f"choosing the checkpoint and the knobs generates at most {event.selection_images} images")
    display.steps = event.steps
    display.start("training", event.steps)


def show_step(display: Display, event: StepTrained) -> None:
    """Advance the bar, with the loss of the subject's examples."""
    display.update(completed=event.step)
    display.show_loss(event.subject_loss)


def show_checkpoint(display: Display, event: CheckpointChosen) -> None:
    """Print which checkpoint is kept; the knob search and the report follow."""
    display.say(event.reason)
    display.update(completed=display.steps, description="writing the report")


def show_read_back(display: Display, event: AdapterReadBack) -> None:
    """Print how much the adapter changes, and that its file holds it."""
    for name, value in event.rows:
        display.say(f"{name}: {value}")
    if not event.image_change:
        display.say("note: no pixel of a small image changes; train longer, or at higher rates.", style="yellow")


def show_fold(display: Display, event: FoldStarted) -> None:
    """Name the photo that is held out."""
    display.name = f"without {event.photo} ({event.number} of {event.folds})"
    if event.steps:
        display.start("training", event.steps)


def show_run(display: Display, event: RunFinished) -> None:
    """Print how a run of a sweep or a suite ended."""
    scores = ", ".join(f"{name} {score:.3f}" for name, score in event.scores.items())
    display.say(f"{event.name}: {event.failure or scores or 'done'}")
    display.update(advance=1)


def show_file_work(display: Display, event: FileWorkPlanned) -> None:
    """Print what work on files will take, and start the bar of the layers."""
    show_rows(display.console, event.title, event.rows)
    display.start("layers", event.layers)


def keep_diagnosis(display: Display, event: DiagnosisFinished) -> None:
    """Keep a diagnosis until the job's tables are printed."""
    display.diagnosis = event


def show_failed_diagnosis(display: Display, event: DiagnosisFailed) -> None:
    """Print why a run is not diagnosed, and how it can be later."""
    display.say(f"note: {event.reason} Mend that, then run `mascot diagnose` on the run.", style="yellow")


def keep_file(display: Display, event: FileWritten) -> None:
    """Keep the path of a file until the job ends."""
    display.files[event.kind] = event.path


def on(event: type[Shown], render: Callable[[Display, Shown], None]) -> tuple[type[Event], Renderer]:
    """Pair an event with its renderer, which takes events of just this type."""
    return event, cast("Renderer", render)


RENDERERS: Mapping[type[Event], Renderer] = MappingProxyType(
    dict(
        [
            on(PhotosRead, show_photos),
            on(TokenSearchStarted, show_token_search),
            on(ClassImagesStarted, show_class_images),
            on(SettingsResolved, show_settings),
            on(StepTrained, show_step),
            on(CheckpointChosen, show_checkpoint),
            on(KnobsChosen, lambda display, event: display.say(f"knobs: {event.reason}")),
            on(AdapterReadBack, show_read_back),
            on(GenerationStarted, lambda display, event: display.start("generating", event.images)),
            on(PromptTruncated, lambda display, event: display.say(f"note: {event.message}.", style="yellow")),
            on(PromptRead, lambda display, event: display.say(f"note: {event.message}.")),
            on(ImageGenerated, lambda display, _: display.update(advance=1)),
            on(ScoringStarted, lambda display, _: display.update(description=f"scoring {display.name}".strip())),
            on(DiagnosisFinished, keep_diagnosis),
            on(DiagnosisFailed, show_failed_diagnosis),
            on(FoldStarted, show_fold),
            on(RunsPlanned, lambda display, event: display.start("runs", event.runs)),
            on(RunFinished, show_run),
            on(FileWritten, keep_file),
            on(FileWorkPlanned, show_file_work),
            on(LayersDone, lambda display, event: display.update(completed=event.layers)),
        ]
    )
)
"""Event to the function that shows it in the terminal."""


@contextmanager
def open_bar(console: Console) -> Generator[Progress]:
    """Show progress bars while the context lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        yield bar


@contextmanager
def open_display(name: str = "") -> Generator[Display]:
    """Show one job, quietly, while the context lasts."""
    quiet_libraries()
    console = Console()
    with open_bar(console) as bar:
        yield Display(console, bar, name)


def plain_display() -> Display:
    """Make a display without a progress bar, for jobs that are quick or report no progress."""
    quiet_libraries()
    console = Console()
    return Display(console, Progress(console=console, disable=True))


def show_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values."""
    table = RichTable(title=title, show_header=False, title_justify="left", box=None, padding=(0, 2))
    for name, value in rows:
        table.add_row(name, escape_control(value), style=None)
    console.print(table, markup=False)


def show_diagnosis(display: Display) -> None:
    """Print the kept diagnosis, if there is one: its verdict, and each finding with a remedy."""
    if display.diagnosis is None:
        return
    display.say(display.diagnosis.verdict)
    for finding in display.diagnosis.findings:
        style = None if finding.severity == "note" else "yellow"
        display.say(f"{finding.severity}: {finding.failure_mode}: {finding.remedy}", style=style)


def show_table(console: Console, table: Table) -> None:
    """Print a table of scores and its notes."""
    from mascot.reports.table import NO_VALUE

    shown = RichTable(title=escape(table.title), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(table.head):
        numeric = all(row[number][-1:] in {*"0123456789)", NO_VALUE} for row in table.rows)
        shown.add_column(escape(name), overflow="fold", justify="right" if numeric else "left")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
    for note in table.notes:
        console.print(f"- {note}", markup=False, highlight=False)
    console.print()


def show_leaderboard(display: Display, board: Leaderboard) -> None:
    """Print a sweep's files and its leaderboard; other metrics are in the file and on the page."""
    from mascot.experiments.leaderboard_page import leaderboard_table

    for kind, path in display.files.items():
        display.say(f"{kind}: {path}")
    show_table(display.console, leaderboard_table(board, metrics=(board.by,)))


def show_suite(display: Display, suite: SuiteScores) -> None:
    """Print the tables of a suite and the path of its report."""
    from mascot.experiments.suite_page import difference_tables, other_table, paper_table

    for table in (paper_table(suite), other_table(suite), *difference_tables(suite)):
        show_table(display.console, table)
    display.say(f"report: {display.files['report']}")
