"""Pivotal tuning (Roich et al. 2021, arXiv 2106.05744): textual inversion, then a LoRA.

cloneofsimo/lora brought it to text-to-image models. Textual inversion first finds the token
embeddings nearest to the subject. Then a LoRA is trained, while the embeddings are trained on with
a lower learning rate.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mascot.adapters.sides import Sides
from mascot.adapters.token_rows import BUNDLE, bundle_prefix, read_records, rows_of
from mascot.errors import UserError
from mascot.methods import lora, textual_inversion
from mascot.protocols import (
    AppliedAdapter,
    AttachedMethod,
    Companion,
    ParameterGroup,
    ScheduledPhase,
    Stage,
    Subject,
)


class PivotalSettings(BaseModel):
    """Recipe settings of pivotal tuning: those of both methods, and their shares of the steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["pivotal"] = Field(default="pivotal", description="name of the method")
    token_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the steps that train the token's embeddings alone"
    )
    token_learning_rate_after: float = Field(
        default=5e-5, ge=0, le=1, description="learning rate of the embeddings beside the LoRA; 0 freezes them"
    )
    token: textual_inversion.TextualInversionSettings = textual_inversion.TextualInversionSettings(learning_rate=5e-4)
    layers: lora.LoraSettings = lora.LoraSettings()

    @property
    def trains_token(self) -> bool:
        """The token gets embeddings of its own, which stand for its word in every prompt."""
        return True

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The token's embeddings alone, then both."""
        return (
            ScheduledPhase(phase=self.token, share=self.token_share),
            ScheduledPhase(phase=PivotalPhase(self), share=1 - self.token_share),
        )

    @property
    def changes(self) -> Sides:
        """Those of both methods."""
        return self.token.changes | self.layers.changes

    @property
    def unused(self) -> Mapping[str, str]:
        """Those of the LoRA."""
        return {f"layers.{key}": f"layers.{needed}" for key, needed in self.layers.unused.items()}


@dataclass(frozen=True, slots=True)
class PivotalPhase:
    """The second phase, which trains the LoRA layers and the token's embeddings."""

    settings: PivotalSettings
    name: Literal["pivotal"] = "pivotal"

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """List the parts that the LoRA trains, and the text encoders whose embeddings are trained.

        Raises:
            UserError: one of the two methods cannot be trained on this base model.
        """
        return tuple(dict.fromkeys([*self.settings.layers.trains(stage), *self.settings.token.trains(stage)]))

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> PivotalTraining:
        """Add LoRA layers to the token of the phase before, which gets its new learning rate."""
        assert isinstance(before, textual_inversion.TokenTraining), "the token is trained first"
        layers = self.settings.layers.attach(stage, subject, seed, None)
        token = replace(before, learning_rate=self.settings.token_learning_rate_after)
        return PivotalTraining(layers=layers, token=token)


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotalTraining:
    """LoRA layers and the token's embeddings during training."""

    layers: AttachedMethod
    token: textual_inversion.TokenTraining
    changes_base: Literal[False] = False

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The LoRA's parameter groups, then the embeddings', frozen if their rate is 0."""
        token = self.token.groups
        if not self.token.learning_rate:
            token = tuple(replace(group, until=0.0) for group in token)
        return (*self.layers.groups, *token)

    def after_step(self) -> None:
        """Pull the norms of the embeddings, if these are trained."""
        if self.token.learning_rate:
            self.token.after_step()

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Switch off LoRA layers and token while the context lasts."""
        with ExitStack() as stack:
            stack.enter_context(self.layers.base_only())
            stack.enter_context(self.token.base_only())
            yield

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Join both exports: layers under their own names, rows under `bundle_emb.TOKEN.`."""
        layers, layers_metadata = self.layers.export()
        return layers | self.token.bundle(), layers_metadata | self.token.export()[1]

    def companions(self) -> Mapping[str, Companion]:
        """Return each of the two alone, for tools that read one of them from a file.

        These are diffusers' `load_lora_weights` and `load_textual_inversion`.
        """
        layers, layers_metadata = self.layers.export()
        rows, token_metadata = self.token.export()
        return {
            "layers": Companion(tensors=layers, metadata=layers_metadata, method="lora"),
            "token": Companion(tensors=rows, metadata=token_metadata, method="textual-inversion"),
            **self.token.companions(),
        }

    def detach(self) -> None:
        """Restore the base model."""
        self.layers.detach()
        self.token.detach()


@dataclass(frozen=True, slots=True)
class PivotalApplied:
    """LoRA layers and token of a loaded adapter, for generation."""

    layers: AppliedAdapter
    token: AppliedAdapter

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each part's strength, of its layers and of its token."""
        self.layers.scale(scales)
        self.token.scale(scales)

    def remove(self) -> None:
        """Restore the base model."""
        self.layers.remove()
        self.token.remove()

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield the changes of its layers, then those of its token."""
        yield from self.layers.changes()
        yield from self.token.changes()


def conflicts(settings: PivotalSettings, before: PivotalSettings) -> dict[str, object]:
    """List what stands against training on, of both methods."""
    token = textual_inversion.conflicts(settings.token, before.token)
    layers = lora.conflicts(settings.layers, before.layers)
    return {key.replace("method.", "method.token."): value for key, value in token.items()} | {
        key.replace("method.", "method.layers."): value for key, value in layers.items()
    }


def take_over(attached: AttachedMethod, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Start layers and token of the second phase from exported ones.

    Raises:
        UserError: one of the two does not fit.
    """
    assert isinstance(attached, PivotalTraining)
    rows, layers = split_bundle(tensors, metadata)
    textual_inversion.take_over(attached.token, rows, metadata)
    lora.take_over(attached.layers, layers, metadata)


def split_bundle(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split exported tensors into the token's rows and the LoRA's.

    Raises:
        UserError: one of the two is missing.
    """
    records = read_records(metadata)
    prefixes = tuple(bundle_prefix(record.token) for record in records)
    rows = {key: value for key, value in tensors.items() if key.startswith(prefixes)}
    layers = {key: value for key, value in tensors.items() if key not in rows}
    if len(records) == 1:
        rows = rows_of(records[0].token, rows)
    if not rows or not layers:
        raise UserError("this adapter lacks its token's embeddings or its LoRA layers; export it again.")
    return rows, layers


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> PivotalApplied:
    """Apply exported LoRA layers and token to a stage, beside the adapters that it has.

    Raises:
        UserError: the file lacks one of the two, or does not fit the base model.
    """
    rows, layers = split_bundle(tensors, metadata)
    token = textual_inversion.restore(stage, rows, metadata)
    try:
        return PivotalApplied(lora.restore(stage, layers, metadata), token)
    except UserError:
        token.remove()
        raise


def changes(keys: Iterable[str]) -> Sides:
    """Tell which sides of a base an export changes: the text encoders' by its token at least."""
    return lora.changes(key for key in keys if not key.startswith(BUNDLE)) | textual_inversion.changes(())
