"""The seam on one page: the protocols of families and methods, and the values between them.

A **family** is one kind of base model: how pixels become latents, how prompts become conditioning,
and what its denoiser predicts. A **method** is a tuple of phases, one after the other. Only the
training loop (`training.loop`) and the generator (`generation.generator`) use both, and neither of
them names a family or a method.

Shape suffixes: B batch, C channel, H height, W width, N tokens, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from mascot.errors import UserError


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject's token and class noun; its name in prompts and the others if it is not alone."""

    token: str
    class_noun: str | None = None
    name: str | None = None
    others: tuple[Subject, ...] = ()

    def __post_init__(self) -> None:
        """Refuse blanks."""
        if not self.token.strip():
            raise UserError("The token is empty; give a rare word such as sks.")
        if self.class_noun is not None and not self.class_noun.strip():
            raise UserError("The class noun is empty; give a noun such as dog, or leave it out.")

    @property
    def words(self) -> str:
        """The subject in a prompt: `sks dog`, or the token alone."""
        return self.token if self.class_noun is None else f"{self.token} {self.class_noun}"

    @property
    def all(self) -> tuple[Subject, ...]:
        """The subject and those that are trained together with it, each of which knows the rest."""
        alone = [replace(one, others=()) for one in (self, *self.others)]
        return tuple(replace(one, others=tuple(other for other in alone if other is not one)) for one in alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How an image was cropped, in pixels; SDXL is conditioned on it (arXiv 2307.01952, 2.2)."""

    original: tuple[int, int]
    """Height and width before cropping."""
    corner: tuple[int, int] = (0, 0)
    """Top and left of the crop."""
    target: tuple[int, int]
    """Height and width of the crop."""


Conditioning = Mapping[str, Tensor]
"""The denoiser's inputs besides noisy latents and timestep: named tensors, batch first."""

Condition = Callable[[Sequence[str], Sequence[Framing]], Conditioning]
"""Turns prompts and framings into conditioning: `Stage.condition`, or a cache in front of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latents:
    """Encoded images as a normal distribution, which `diffusion.noise.sample_latents` draws from.

    The deviation is 0 for a family in pixel space.
    """

    mean_BCHW: Tensor
    deviation_BCHW: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch of training: subject examples first, then those of prior preservation."""

    latents: Latents
    prompts: tuple[str, ...]
    framings: tuple[Framing, ...]
    weight_B: Tensor
    """Weight of each example in the loss; prior preservation is nothing more than this weight."""
    subject_count: int
    """Number of examples that show the subject; the others show the class."""
    generators: tuple[Generator, ...]
    """One random generator for each example: its latents, timestep and noise are drawn from it."""
    base_target_B: Tensor | None = None
    """Examples (bool) whose target is the base model's prediction: output preservation."""
    mask_B1HW: Tensor | None = None
    """Weight of each latent cell, of mean 1 over an example; None weights all cells alike."""


class Objective(Protocol):
    """What a denoiser was trained to predict, and at which timesteps."""

    def sample_timesteps(self, generators: Sequence[Generator]) -> Tensor:
        """Draw one timestep per generator, in the denoiser's own units. Shape B."""
        ...

    def noise(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Mix latents x0 and noise eps to x_t, by the noise schedule. Shape B x C x H x W."""
        ...

    def target(self, x0_BCHW: Tensor, eps_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """Return what the denoiser shall predict: noise or velocity. Shape B x C x H x W."""
        ...

    def weight(self, timestep_B: Tensor, min_snr: float | None) -> Tensor:
        """Return the weight of timesteps in the loss, from min-SNR's limit. Shape B."""
        ...


class Solver(Protocol):
    """A diffusers scheduler, set up for one size and number of steps."""

    @property
    def timesteps(self) -> Tensor:
        """The timesteps of the steps, from noise to image. Shape: steps."""
        ...

    @property
    def init_noise_sigma(self) -> float | Tensor:
        """The standard deviation of the noise that generation starts from."""
        ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Scale the denoiser's input at a timestep; `sample` has shape B x C x H x W."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        """Take a step along the prediction; the first item returned is the new sample."""
        ...

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mix images and noise as they are at timesteps, one for each image; B x C x H x W."""
        ...


class Vocabulary(Protocol):
    """The tokens of one text encoder, to which trainable tokens can be added."""

    def embeddings(self, words: str) -> Tensor:
        """Return the embedding table's rows of some words, one a token. Shape N x D, float32."""
        ...

    @property
    def typical_norm(self) -> float:
        """The median L2 norm of the table's rows."""
        ...

    def add(self, token: str, rows_ND: nn.Parameter) -> None:
        """Let a token stand for N trainable rows in every prompt; the table itself stays frozen."""
        ...

    def remove(self, tokens: Collection[str] | None = None) -> None:
        """Remove some added tokens, or all; without any left it is the base's own vocabulary."""
        ...


class Stage(Protocol):
    """One denoiser with its encoders and objective; a pixel cascade has several stages."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The modules that can be trained, by their names in diffusers; the denoiser is first."""
        ...

    @property
    def denoiser(self) -> str:
        """The name of the part that denoises."""
        ...

    @property
    def objective(self) -> Objective:
        """What the denoiser predicts."""
        ...

    @property
    def default_solver(self) -> str:
        """The name of the solver that is used where none is given."""
        ...

    @property
    def embeds_guidance(self) -> bool:
        """Whether the denoiser takes the guidance scale as input (`guidance` in its conditioning).

        Other denoisers predict twice a step: classifier-free guidance.
        """
        ...

    @property
    def multiple(self) -> int:
        """The number that height and width of images must be divisible by, in pixels."""
        ...

    @property
    def resolution(self) -> int:
        """The side of the square images that the base was trained on, in pixels."""
        ...

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """Name of a text encoder -> its vocabulary, for those whose embeddings can be trained."""
        ...

    def adaptable(self, part: str, layers: str) -> list[str]:
        """List the layers of a part that a LoRA adapts; `layers` is a set such as `attention`."""
        ...

    def encode(self, pixels_BCHW: Tensor) -> Latents:
        """Encode pixels in -1..1 to latents."""
        ...

    def decode(self, x0_BCHW: Tensor) -> Tensor:
        """Decode latents to pixels in 0..1. Shape B x 3 x height x width."""
        ...

    def condition(self, prompts: Sequence[str], framings: Sequence[Framing]) -> Conditioning:
        """Encode B prompts and framings; gradients reach the text encoders."""
        ...

    def image_conditioning(self, x0_BCHW: Tensor, generators: Sequence[Generator]) -> Conditioning:
        """Condition super-resolution on a low-resolution image; other stages return nothing.

        `x0_BCHW` holds the training images, or the output of the stage before, at any size, as the
        denoiser sees images. Noise augmentation draws from the generators, one for each image.
        """
        ...

    def predict(self, noisy_BCHW: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Run the denoiser once; the prediction has the shape of its input, B x C x H x W."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return C, H and W of the latents of an image of `height` x `width` pixels."""
        ...

    def solver(self, name: str, steps: int, height: int, width: int) -> Solver:
        """Set up a solver by name, for `steps` steps and images of `height` x `width` pixels."""
        ...

    def truncations(self, prompt: str) -> Mapping[str, tuple[int, int, str]]:
        """Give tokens, tokens read and text left out by text encoder; empty where all is read."""
        ...

    def release_encoders(self, *, text: bool) -> None:
        """Drop the image encoder, and with `text` the text encoders, until a call needs them."""
        ...

    def save(self, folder: Path) -> None:
        """Write the stage's pipeline with its present weights, in the diffusers layout."""
        ...


class Family(Protocol):
    """A loaded base model."""

    @property
    def name(self) -> str:
        """The name of the family, as in the file names of presets."""
        ...

    @property
    def identity(self) -> str:
        """A hash of the weights, by which caches and adapters recognize the base."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in the order in which they generate."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that are trained at one learning rate."""

    part: str
    """The part of the stage that they belong to."""
    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    until: float = 1.0
    """Share of the phase, 0..1, after which the parameters are frozen."""
    detail: str = ""
    """Tells groups of one part apart in logs."""

    @property
    def name(self) -> str:
        """The name of the group in logs."""
        return f"{self.part} {self.detail}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A second file of an adapter: other tensors or names, for other tools or a smaller file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    method: str | None
    """The method whose `restore` loads it; None where only other tools do."""
    subject: Subject | None = None
    """The only subject that it holds; None where it holds all."""
    facts: tuple[tuple[str, str], ...] = ()
    """Pairs of name and value that reports show."""


class AttachedMethod(Protocol):
    """A method attached to a stage: its trainable parameters and their export."""

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The trained parameters, by learning rate."""
        ...

    @property
    def changes_base(self) -> bool:
        """Whether the base's own weights are trained; the result is then also written as a base."""
        ...

    def after_step(self) -> None:
        """Restore values that an optimizer step may have changed but that must stay fixed."""
        ...

    def base_only(self) -> AbstractContextManager[None]:
        """Switch the method off while the context lasts: exactly the base model, bit by bit."""
        ...

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the adapter's tensors, under names that other tools know, and its metadata."""
        ...

    def companions(self) -> Mapping[str, Companion]:
        """Return further files to write, by file name without its ending."""
        ...

    def detach(self) -> None:
        """Detach the method, which leaves the base model."""
        ...


class Phase(Protocol):
    """One phase of a method."""

    @property
    def name(self) -> str:
        """The name of the method that restores what this phase exports."""
        ...

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> AttachedMethod:
        """Attach the phase to a stage and return what is trained.

        `subject` knows the others. `seed` decides initial weights. `before` is the attached method
        of the phase before, which the new one takes over; None in the first phase.
        """
        ...

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """Name the parts that are trained, UserError if none can be; others run once a prompt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledPhase:
    """A phase with its share of a run's steps."""

    phase: Phase
    share: float = 1.0
    """Between 0 and 1."""


class Method(Protocol):
    """The settings of a method: its name and its phases."""

    @property
    def name(self) -> str:
        """The name of the method in recipes."""
        ...

    @property
    def trains_token(self) -> bool:
        """Whether embeddings are trained that stand for the token's word in every prompt."""
        ...

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The phases in order; their shares add up to 1."""
        ...

    @property
    def changes(self) -> frozenset[str]:
        """The sides of a base that these settings train (see `adapters.sides`)."""
        ...

    @property
    def unused(self) -> Mapping[str, str]:
        """The settings that change nothing beside the others: dotted key -> what would use it."""
        ...


class AppliedAdapter(Protocol):
    """An adapter that is applied to a stage, alone or beside others."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set the strength of each part: 0 is exactly the base model, 1 the trained strength."""
        ...

    def remove(self) -> None:
        """Remove the adapter; when the last one is removed, this is the base model, bit by bit."""
        ...

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield each layer's name and how far it changes: the share of its weights' norm."""
        ...


class Restore(Protocol):
    """The function that applies an adapter: the inverse of `AttachedMethod.export`."""

    def __call__(self, stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> AppliedAdapter:
        """Apply exported tensors beside a stage's adapters; UserError names what does not fit."""
        ...
