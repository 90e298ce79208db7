"""Pivotal tuning (Roich et al. 2021, arXiv 2106.05744, as cloneofsimo/lora brought it to text-to-image): first the word, then the layers.

Textual inversion finds the word that comes nearest the subject; then a LoRA goes the rest of the way while the word learns on slowly.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mascot.errors import UserError
from mascot.methods import lora, textual_inversion
from mascot.protocols import AppliedAdapter, AttachedMethod, Companion, ParameterGroup, ScheduledPhase, Stage, Subject

BUNDLE = "bundle_emb."
"""How names of rows begin in a file that holds layers too, as A1111's and ComfyUI's readers know it; the token and a dot follow."""


class PivotalSettings(BaseModel):
    """The word's settings and the layers', and how the steps are shared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["pivotal"] = Field(default="pivotal", description="which method this is")
    token_share: float = Field(default=0.5, gt=0, lt=1, description="share of the steps in which the word alone learns")
    token_learning_rate_after: float = Field(
        default=5e-5, ge=0, le=1, description="learning rate of the word beside the layers; 0 keeps it as it is"
    )
    token: textual_inversion.TextualInversionSettings = textual_inversion.TextualInversionSettings(learning_rate=5e-4)
    layers: lora.LoraSettings = lora.LoraSettings()

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The word, then both."""
        return ScheduledPhase(phase=self.token, share=self.token_share), ScheduledPhase(
            phase=PivotalPhase(self), share=1 - self.token_share
        )


@dataclass(frozen=True, slots=True)
class PivotalPhase:
    """The second phase."""

    settings: PivotalSettings

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """What the layers' phase trains, and the text encoders whose words learn."""
        return tuple(dict.fromkeys([*self.settings.layers.trains(stage), *self.settings.token.trains(stage)]))

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> PivotalTraining:
        """Let the word of the phase before go on more slowly, and put fresh layers beside it."""
        assert isinstance(before, textual_inversion.TokenTraining), "the word comes first"
        layers = self.settings.layers.attach(stage, subject, seed, None)
        return PivotalTraining(
            layers=layers, word=replace(before, learning_rate=self.settings.token_learning_rate_after)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotalTraining:
    """A word and layers that learn together."""

    layers: AttachedMethod
    word: textual_inversion.TokenTraining
    changes_base: Literal[False] = False

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The layers, then the word's rows, which rest where their rate is 0."""
        rows = (
            self.word.groups if self.word.learning_rate else [replace(group, until=0.0) for group in self.word.groups]
        )
        return (*self.layers.groups, *rows)

    def after_step(self) -> None:
        """Keep the word's length."""
        if self.word.learning_rate:
            self.word.after_step()

    @contextmanager
    def base_only(self) -> Generator[None]:
        """The base without either."""
        with ExitStack() as stack:
            stack.enter_context(self.layers.base_only())
            stack.enter_context(self.word.base_only())
            yield

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Both in one: the layers under their names, the rows under `bundle_emb.TOKEN.`."""
        layers, about_layers = self.layers.export()
        rows, about_word = self.word.export()
        prefix = f"{BUNDLE}{self.word.word.token}."
        return layers | {f"{prefix}{key}": value for key, value in rows.items()}, about_layers | about_word

    def companions(self) -> Mapping[str, Companion]:
        """Each alone, for tools that read one thing from a file: diffusers' `load_lora_weights` and `load_textual_inversion`."""
        layers, about_layers = self.layers.export()
        rows, about_word = self.word.export()
        return {
            "layers": Companion(tensors=layers, metadata=about_layers, method="lora"),
            "token": Companion(tensors=rows, metadata=about_word, method="textual-inversion"),
        }

    def detach(self) -> None:
        """Give the base back."""
        self.layers.detach()
        self.word.detach()


@dataclass(frozen=True, slots=True)
class PivotalApplied:
    """A word and layers that draw."""

    layers: AppliedAdapter
    word: AppliedAdapter

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part's strength, of what lies in it."""
        self.layers.scale(scales)
        self.word.scale(scales)

    def remove(self) -> None:
        """Give the base back."""
        self.layers.remove()
        self.word.remove()


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> PivotalApplied:
    """Put an exported pair on a stage that has none.

    Raises:
        UserError: the file lacks one of the two, or does not fit the base.
    """
    prefix = f"{BUNDLE}{textual_inversion.TokenRecord.read(metadata).token}."
    rows = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    layers = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
    if not rows or not layers:
        raise UserError("this adapter lacks its word or its layers; export it again.")
    word = textual_inversion.restore(stage, rows, metadata)
    try:
        return PivotalApplied(lora.restore(stage, layers, metadata), word)
    except UserError:
        word.remove()
        raise
