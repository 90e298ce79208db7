"""The architecture on one page: what a family answers, what a method answers, and the values that pass between them.

A **family** knows one kind of base model: how pixels become latents, how prompts become conditioning, what the denoiser was trained
to answer. A **method** knows what learns: it is a tuple of phases, trained one after the other. The loop (`trainer.py`) and the
generator (`generator.py`) are the only places where both meet, and they name neither.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from mascot.errors import UserError

Conditioning = Mapping[str, Tensor]
"""What the denoiser is told besides the noisy picture: named tensors, each with the batch first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a picture was cut: some families (SDXL) are told. All in pixels, (height, width) and (top, left)."""

    original: tuple[int, int]
    corner: tuple[int, int] = (0, 0)
    target: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Pictures as the denoiser sees them, as a normal distribution: `latents.sample` draws from it at each use.

    A family in pixel space has a deviation of 0.
    """

    mean_BCHW: Tensor
    deviation_BCHW: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch of training. Prior preservation is nothing but examples with their own weight."""

    latents: Latents
    prompts: tuple[str, ...]
    framings: tuple[Framing, ...]
    weight_B: Tensor
    subject_count: int
    """The first so many examples show the subject; the rest the class."""
    generators: tuple[Generator, ...]
    """One generator an example: all that is random about it (latents, level, noise) is drawn from here."""
    base_target_B: Tensor | None = None
    """Examples (bool) whose right answer is the untouched base's own: prior preservation without pictures."""
    mask_B1HW: Tensor | None = None
    """How much each cell of the latents counts in its example's error, 1 on average over each example; None counts all alike."""


class Objective(Protocol):
    """What a denoiser was trained to answer, at which noise levels."""

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one training level per generator, as the denoiser expects it. Shape B."""
        ...

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix pictures with noise."""
        ...

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The right answer."""
        ...

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """How much each level counts in the loss. Shape B."""
        ...


class Solver(Protocol):
    """A diffusers scheduler, ready for one drawing."""

    @property
    def timesteps(self) -> Tensor:
        """Levels of the steps, from noise to picture."""
        ...

    @property
    def init_noise_sigma(self) -> Any:
        """How strong the noise is that drawing starts from."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Scale the input at one step."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        """Take one step."""
        ...


class Vocabulary(Protocol):
    """The words of one text encoder that may learn: tokenizer and embedding table."""

    def meaning(self, words: str) -> Tensor:
        """The table's rows of some words, one for each of their tokens. Shape tokens x D, float32."""
        ...

    @property
    def typical_norm(self) -> float:
        """The median length of the table's rows."""
        ...

    def learn(self, word: str, rows_ND: nn.Parameter) -> None:
        """Let a word stand for rows that lie beside the table, from now on and in every prompt; the table itself cannot move."""
        ...

    def forget(self) -> None:
        """Give the base's own vocabulary back."""
        ...


class Stage(Protocol):
    """One denoiser with everything that belongs to it. Most families have one; a pixel cascade has several."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that may learn, under their names in the diffusers layout; the denoiser first."""
        ...

    @property
    def denoiser(self) -> str:
        """Which part denoises."""
        ...

    @property
    def objective(self) -> Objective:
        """What the denoiser answers."""
        ...

    @property
    def default_solver(self) -> str:
        """The solver that draws where none is named."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the denoiser is told the guidance scale (as `guidance` in its conditioning) instead of being asked twice."""
        ...

    @property
    def multiple(self) -> int:
        """Sides of pictures must divide by this, in pixels."""
        ...

    @property
    def resolution(self) -> int:
        """The side this base was trained at, in pixels."""
        ...

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """Text encoder's name -> the words that may learn; one whose table is never trained (a T5) is not there."""
        ...

    def adaptable(self, part: str, layers: str) -> list[str]:
        """Names of the layers of a part that a LoRA may change; `layers` is a word of the family's own (`attention`)."""
        ...

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Pixels in -1..1 to latents."""
        ...

    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Latents to pixels in 0..1."""
        ...

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Prompts to what the denoiser is told; differentiable with respect to the text encoders."""
        ...

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """What the denoiser is told of a picture: the enlarging stages of a cascade see it small. Nothing for most.

        `x0_BCHW` is the training picture, or the picture of the stage before, of whatever size; both as the denoiser sees pictures.
        """
        ...

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask the denoiser once."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """C, H, W of the noise for a picture of so many pixels."""
        ...

    def solver(self, name: str, steps: int, height: int, width: int) -> Solver:
        """A scheduler set up for one drawing."""
        ...

    def prompt_length(self, prompt: str) -> tuple[int, int]:
        """Tokens that a prompt takes, and how many are heard."""
        ...

    def release_encoders(self, *, text: bool) -> None:
        """Let the picture encoder (and the text encoders) leave memory; the next call that needs one loads it again."""
        ...

    def save(self, folder: Path) -> None:
        """Write this stage's whole pipeline as it is now, in the diffusers layout."""
        ...


class Family(Protocol):
    """One base model, loaded."""

    @property
    def name(self) -> str:
        """The kind of base, as presets call it."""
        ...

    @property
    def identity(self) -> str:
        """A hash of the weights: caches and adapters are keyed by it."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The denoisers, in the order in which they draw."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that learn at one rate."""

    part: str
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    until: float = 1.0
    """The share of its phase after which it stops learning."""
    detail: str = ""
    """What of the part it is, where several groups share one."""

    @property
    def name(self) -> str:
        """Its name in logs."""
        return f"{self.part} {self.detail}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """What was learned in another form, for tools that cannot read ours, or for less room."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    method: str | None
    """The method of ours that restores it too; None where only other tools read it."""
    facts: tuple[tuple[str, str], ...] = ()
    """What to say about it: pairs of a name and a value."""


class AttachedMethod(Protocol):
    """A method, attached to a stage: what learns now."""

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """What learns, by rate."""
        ...

    @property
    def changes_base(self) -> bool:
        """Whether the base itself changes, so that the result is also written as a base."""
        ...

    def after_step(self) -> None:
        """Put back what must not have moved."""
        ...

    def base_only(self) -> AbstractContextManager[None]:
        """The base as it was, to the bit, for as long as the block lasts."""
        ...

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What is kept: tensors under the names other tools know, and the safetensors metadata that they need."""
        ...

    def companions(self) -> Mapping[str, Companion]:
        """Other forms of the export, by the name of their file without its ending."""
        ...

    def detach(self) -> None:
        """Give the untouched base back."""
        ...


class Phase(Protocol):
    """One leg of a training run, which can attach itself."""

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Make the stage's parts ready to learn; `before` is the learner of the phase before, still attached, which it takes over."""
        ...

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """Which parts will learn: the text of parts that will not is computed once.

        Raises:
            UserError: the stage has nothing that could learn this way; asked before anything is drawn or attached.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledPhase:
    """A phase, and its share of a run's steps."""

    phase: Phase
    share: float = 1.0


class Method(Protocol):
    """A method's settings: what it is called, and its phases in order."""

    @property
    def name(self) -> str:
        """As recipes call it."""
        ...

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The phases, whose shares add up to 1."""
        ...


class AppliedAdapter(Protocol):
    """An adapter put on a stage."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part's strength; 0 is exactly the base, 1 what was trained."""
        ...

    def remove(self) -> None:
        """Give the base back, exactly."""
        ...


class Restore(Protocol):
    """The inverse of `AttachedMethod.export`."""

    def __call__(self, stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AppliedAdapter:
        """Put an adapter on; raises UserError with the keys that do not fit."""
        ...


Condition = Callable[[Sequence[str], Sequence[Framing]], Conditioning]


COMMON_TOKEN = "sks"
"""What most tutorials call their subject, and what ours is called while nobody has named it and no base has been asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is taught: its token, and the noun of its class where one is known. Raises UserError where either is blank."""

    token: str
    class_noun: str | None = None

    def __post_init__(self) -> None:
        """Refuse blanks."""
        if not self.token.strip():
            raise UserError("The token is empty; give a rare word such as sks.")
        if self.class_noun is not None and not self.class_noun.strip():
            raise UserError("The class noun is empty; give a noun such as dog, or leave it out.")

    @property
    def words(self) -> str:
        """Token and class noun (`sks dog`), or the token alone."""
        return self.token if self.class_noun is None else f"{self.token} {self.class_noun}"
