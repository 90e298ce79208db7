"""Progress events of long jobs: one frozen dataclass for each kind of event.

The terminal, a notebook or a web page subscribes with one callable. Events hold only plain values
(numbers, text, paths), so they can cross a process or become JSON. The docstring of an event says
who emits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Event:
    """Base class of all events; it is never emitted itself."""


OnEvent = Callable[[Event], None]
"""A subscriber: called with each event, in order, in the process that does the work."""


def ignore(event: Event) -> None:
    """Ignore an event: the subscriber where none is given."""
    del event


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotosRead(Event):
    """Training has read the photos."""

    used: tuple[str, ...]
    """Printable file names of the photos, in order."""
    refused: tuple[str, ...]
    """One sentence for each file that is not used, with the reason."""
    notes: tuple[str, ...]
    """Changes that were made to photos, such as turning them upright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSearchStarted(Event):
    """Training starts a token search, because no result is cached for this base."""

    images: int
    """Number of images that the search generates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassImagesStarted(Event):
    """Training is about to read or generate class images; not emitted where none are needed."""

    images: int
    """Number of class images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsResolved(Event):
    """Training has resolved its settings and its length; the next events are steps."""

    rows: tuple[tuple[str, str], ...]
    """Name and value of each effective setting."""
    steps: int
    """Number of optimizer steps of the whole run."""
    selection_images: int
    """Most images that checkpoint selection and knob search generate; 0 where neither runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTrained(Event):
    """Training has finished one optimizer step."""

    step: int
    """Number of steps done so far, from 1."""
    loss: float
    """Weighted loss of the step."""
    subject_loss: float
    """Mean squared error on the subject's examples alone, unweighted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewsWritten(Event):
    """Training has written the previews of a step."""

    step: int
    """Step 0 is what training starts from."""
    paths: tuple[Path, ...]
    """The image files."""
    prompts: tuple[str, ...]
    """The prompt of each image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointValidated(Event):
    """Training has measured images of a step on validation prompts.

    A resumed run emits those of its earlier steps again, before its first step.
    """

    step: int
    likeness: float
    """Mean cosine of the images and the photos."""
    prompt_fidelity: float
    """Mean cosine of the images and their prompts (CLIP-T)."""
    likeness_gain: float
    """Likeness: 0 as the base model, 1 as real photos."""
    prompt_kept: float
    """Prompt fidelity: 0 as noise, 1 as the base model."""
    copying: float
    """How much nearer images are to a training photo than photos are to each other, 0..1."""
    score: float
    """The score by which the checkpoint is selected, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointChosen(Event):
    """Training has selected the checkpoint that becomes the adapter."""

    reason: str
    """Why it was selected, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobsChosen(Event):
    """Training has selected the recommended inference knobs."""

    reason: str
    """Why they were selected, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterReadBack(Event):
    """Training has read the adapter's file and generated a small image with it.

    Levels are those of a color, 0..255.
    """

    layer: str
    """The layer that the adapter changes most."""
    layer_change: float
    """Norm of its change, as a share of the norm of its weights."""
    image_change: float
    """Mean difference of the image from the base's, in levels."""
    difference: int
    """Largest difference from the image by what was trained, in levels; 0 is the same image."""

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each fact, for reports."""
        same = "the same image, bit for bit" if not self.difference else f"an image up to {self.difference} levels off"
        return (
            ("largest change of a layer", f"{self.layer_change:.2g} of its weights' norm ({self.layer})"),
            ("change of an image", f"{self.image_change:.2g} of 255 levels on average"),
            ("adapter's file", f"read back: {same}"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStarted(Event):
    """Evaluation, diagnosis, cross-validation or a token search is about to get images.

    Images are generated, or read from a cache.
    """

    images: int
    """Number of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTruncated(Event):
    """A text encoder does not read a prompt to its end."""

    message: str
    """The prompt, and what each text encoder leaves out of it, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRead(Event):
    """A prompt is read with weights, or in several chunks."""

    message: str
    """The prompt, its weights and the number of its chunks, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFitted(Event):
    """An image to start from was changed in reading, or is generated at another size."""

    message: str
    """The image, and what was done, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShared(Event):
    """Two adapters that generate together were trained with one token."""

    message: str
    """Both adapters and the token, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageGenerated(Event):
    """One image of the last `GenerationStarted` is on disk."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringStarted(Event):
    """Evaluation is about to score images."""

    images: int
    """Number of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingSummary:
    """One failure mode of a diagnosis, with its first remedy."""

    severity: Literal["serious", "warning", "note"]
    failure_mode: str
    """Name of the failure mode."""
    remedy: str
    """The remedy that is most likely to help; empty where none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFinished(Event):
    """A diagnosis is complete and written to disk."""

    verdict: str
    """The diagnosis in one sentence."""
    findings: tuple[FindingSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisFailed(Event):
    """A trained run could not be diagnosed; its adapter is written all the same."""

    reason: str
    """Why, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStarted(Event):
    """Cross-validation holds out the next photo."""

    photo: str
    """File name of the photo that is held out."""
    number: int
    """Position of the fold, from 1."""
    folds: int
    """Number of folds."""
    steps: int
    """Number of optimizer steps to train; 0 where the fold is trained already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsPlanned(Event):
    """A sweep or a suite has planned its runs."""

    runs: int
    """Number of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """One run of a sweep or a suite has ended."""

    name: str
    """Name of the run in tables."""
    scores: Mapping[str, float]
    """Metric -> mean; empty where the run failed, and in a suite, which averages at the end."""
    failure: str = ""
    """Why the run failed, in one sentence; empty where it succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWorkPlanned(Event):
    """Work on the layers of adapter files or bases is about to begin."""

    title: str
    """What is done, in one or two words."""
    rows: tuple[tuple[str, str], ...]
    """Name and value of each fact: tensors, time, size."""
    layers: int
    """Number of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersDone(Event):
    """Work on adapter files or bases has finished some layers."""

    layers: int
    """Number of layers that are done so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWritten(Event):
    """A result is on disk."""

    kind: Literal["report", "leaderboard", "grid", "page"]
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnded(Event):
    """A command has ended; the last event of its file of events."""

    outcome: Literal["done", "stopped", "failed"]
    """`stopped` is an interruption in order, after which a training can be resumed."""
    sentence: str = ""
    """Why it failed; empty elsewhere."""
