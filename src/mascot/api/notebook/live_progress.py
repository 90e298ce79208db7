"""A live view of a job in a notebook: pass it to a verb as `on_event`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from mascot.progress import (
    AdapterReadBack,
    CheckpointChosen,
    CheckpointValidated,
    ClassImagesStarted,
    DiagnosisFailed,
    DiagnosisFinished,
    Event,
    FileWritten,
    FoldStarted,
    GenerationStarted,
    ImageFitted,
    ImageGenerated,
    KnobsChosen,
    PhotosRead,
    PreviewsWritten,
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
from mascot.reports.notebook.fragment import Fragment
from mascot.reports.notebook.live_view import LiveView, PreviewRow, Validated, render_live_view, render_previews
from mascot.storage.image_files import open_image

Recorded = TypeVar("Recorded", bound=Event)


class DisplayHandle(Protocol):
    """An output of a cell that can be replaced."""

    def update(self, shown: object) -> None:
        """Replace it."""
        ...


class LiveProgress:
    """Shows a job while it runs: a bar, the loss, likeness and prompt fidelity, and previews.

    It is called with each event. In a notebook its output is drawn at most once in `every` seconds,
    and at the end. Elsewhere nothing is shown; `html` holds the view at any time.

        run = mascot.train(recipe, on_event=mascot.LiveProgress())
    """

    def __init__(self, *, every: float = 1.0) -> None:
        self.every = every
        self.title = "Starting"
        self.done = self.total = self.steps = 0
        self.losses: list[tuple[int, float]] = []
        self.validated: list[Validated] = []
        self.settings: tuple[tuple[str, str], ...] = ()
        self.notes: list[str] = []
        self.previews: list[PreviewRow] = []
        self.prompts: tuple[str, ...] = ()
        self.began = self.began_part = self.shown_at = time.monotonic()
        self.first_done = 0
        self.handles: dict[str, DisplayHandle] = {}
        self.has_new_previews = False

    def __call__(self, event: Event) -> None:
        """Record one event, and draw the view again if it is time; other events change nothing."""
        record = RECORDERS.get(type(event))
        if record is None:
            return
        record(self, event)
        if not isinstance(event, OFTEN) or self.is_due or self.done == self.total:
            self.draw()

    @property
    def is_due(self) -> bool:
        """Whether the last drawing is long enough ago."""
        return time.monotonic() - self.shown_at >= self.every

    @property
    def html(self) -> str:
        """The view at this moment."""
        return render_live_view(
            LiveView(
                title=self.title,
                done=self.done,
                total=self.total,
                times=self.times,
                losses=tuple(self.losses),
                steps=max(self.steps, self.losses[-1][0] if self.losses else 0),
                validated=tuple(self.validated),
                settings=self.settings,
                notes=tuple(self.notes),
            )
        )

    @property
    def times(self) -> str:
        """How long the job has taken, and about how long its present part will."""
        now = time.monotonic()
        taken, done = now - self.began_part, self.done - self.first_done
        left = f", about {clock(taken / done * (self.total - self.done))} left" if 0 < done < self.total else ""
        return f"{clock(now - self.began)} so far{left}"

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Begin a part of the job, with a bar of its own."""
        self.title, self.total, self.done, self.first_done = title, total, done, done
        self.began_part = time.monotonic()

    def draw(self) -> None:
        """Draw the view, and the previews if there are new ones; in a notebook alone."""
        self.shown_at = time.monotonic()
        self.put("view", self.html)
        if self.has_new_previews:
            self.put("previews", render_previews(self.previews, self.prompts))
            self.has_new_previews = False

    def put(self, name: str, html: str) -> None:
        """Show HTML in the output of that name."""
        if name in self.handles:
            self.handles[name].update(Fragment(html))
            return
        display = find_display()
        if display is not None:
            self.handles[name] = display(Fragment(html), display_id=True)


def find_display() -> Callable[..., DisplayHandle] | None:
    """Return the function that shows something in a cell; None outside a notebook."""
    try:
        shell: Any = import_module("IPython").get_ipython()
    except ImportError:
        return None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display: Any = import_module("IPython.display").display
    return cast("Callable[..., DisplayHandle]", display)


def clock(seconds: float) -> str:
    """Write a time as people say it: 42 s, 3 min 5 s, 1 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


Recorder = Callable[[LiveProgress, Event], None]
"""Records one event."""


def record_photos(view: LiveProgress, event: PhotosRead) -> None:
    """Note which photos are used and which files are not."""
    view.start("Reading the photos and loading the base", 0)
    view.notes.append(f"{len(event.used)} photos: {', '.join(event.used)}")
    view.notes += [f"not used: {reason}" for reason in event.refused]
    view.notes += event.notes


def record_token_search(view: LiveProgress, event: TokenSearchStarted) -> None:
    """Note that a token is searched."""
    view.start(f"Choosing a token, once for this base: {event.images} images", 0)


def record_class_images(view: LiveProgress, event: ClassImagesStarted) -> None:
    """Note that class images are generated."""
    view.start(f"Generating {event.images} class images, unless they are cached", 0)


def record_settings(view: LiveProgress, event: SettingsResolved) -> None:
    """Keep the effective settings; the steps follow."""
    view.settings, view.steps = event.rows, event.steps
    view.start("Measuring the base model", event.steps)


def record_step(view: LiveProgress, event: StepTrained) -> None:
    """Add a loss."""
    if not view.losses:
        view.start("", view.steps, done=event.step - 1)
    view.losses.append((event.step, event.subject_loss))
    view.done = event.step
    view.title = f"Step {event.step} of {view.steps}"


def record_previews(view: LiveProgress, event: PreviewsWritten) -> None:
    """Read the previews of a step."""
    view.previews.append(PreviewRow.of(event.step, [open_image(path) for path in event.paths]))
    view.prompts, view.has_new_previews = event.prompts, True


def record_validation(view: LiveProgress, event: CheckpointValidated) -> None:
    """Add a point to the curves of validation."""
    shares = {"likeness": event.likeness_gain, "prompt": event.prompt_kept, "copying": event.copying}
    view.validated.append(Validated(step=event.step, **shares))


def record_checkpoint(view: LiveProgress, event: CheckpointChosen) -> None:
    """Note which checkpoint is kept; the knob search and the report follow."""
    view.notes.append(event.reason)
    view.start("Choosing the knobs and writing the report", 0)


def record_diagnosis(view: LiveProgress, event: DiagnosisFinished) -> None:
    """Note the verdict, and each finding with its remedy."""
    view.notes.append(event.verdict)
    view.notes += [f"{one.severity}: {one.failure_mode}: {one.remedy}" for one in event.findings]


def record_file(view: LiveProgress, event: FileWritten) -> None:
    """Note the file that ends a job."""
    view.notes.append(f"{event.kind}: {event.path}")
    view.start("Done", 0)


def record_run(view: LiveProgress, event: RunFinished) -> None:
    """Note how a run of several ended."""
    scores = ", ".join(f"{name} {score:.3f}" for name, score in event.scores.items())
    view.notes.append(f"{event.name}: {event.failure or scores or 'done'}")
    view.done += 1


def record_image(view: LiveProgress, event: ImageGenerated) -> None:
    """Count an image."""
    del event
    view.done += 1


def record_fold(view: LiveProgress, event: FoldStarted) -> None:
    """Name the photo that is held out, and begin its curves anew."""
    view.losses.clear()
    view.validated.clear()
    view.steps = event.steps
    view.start(f"Without {event.photo} ({event.number} of {event.folds})", event.steps)


def on(event: type[Recorded], record: Callable[[LiveProgress, Recorded], None]) -> tuple[type[Event], Recorder]:
    """Pair an event with its recorder, which takes events of just this type."""
    return event, cast("Recorder", record)


OFTEN = (StepTrained, ImageGenerated)
"""Events that come so often that not each of them is drawn."""

RECORDERS: Mapping[type[Event], Recorder] = MappingProxyType(
    dict(
        [
            on(PhotosRead, record_photos),
            on(TokenSearchStarted, record_token_search),
            on(ClassImagesStarted, record_class_images),
            on(SettingsResolved, record_settings),
            on(StepTrained, record_step),
            on(PreviewsWritten, record_previews),
            on(CheckpointValidated, record_validation),
            on(CheckpointChosen, record_checkpoint),
            on(AdapterReadBack, lambda view, event: view.notes.extend(f"{name}: {text}" for name, text in event.rows)),
            on(KnobsChosen, lambda view, event: view.notes.append(f"knobs: {event.reason}")),
            on(GenerationStarted, lambda view, event: view.start(f"Generating {event.images} images", event.images)),
            on(ImageGenerated, record_image),
            on(ScoringStarted, lambda view, event: view.start(f"Scoring {event.images} images", 0)),
            on(DiagnosisFinished, record_diagnosis),
            on(DiagnosisFailed, lambda view, event: view.notes.append(event.reason)),
            on(FoldStarted, record_fold),
            on(RunsPlanned, lambda view, event: view.start(f"{event.runs} runs", event.runs)),
            on(RunFinished, record_run),
            on(PromptTruncated, lambda view, event: view.notes.append(f"{event.message}.")),
            on(PromptRead, lambda view, event: view.notes.append(f"{event.message}.")),
            on(ImageFitted, lambda view, event: view.notes.append(f"{event.message}.")),
            on(TokenShared, lambda view, event: view.notes.append(f"{event.message}.")),
            on(FileWritten, record_file),
        ]
    )
)
"""Event to the function that records it."""
