"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): trains embeddings of each subject's token.

It trains the embedding rows of the identifier token in each text encoder. The base model's own
weights stay frozen.

Shape suffixes: N embedding rows of the token, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mascot.adapters.sides import TEXT_ENCODERS, Sides
from mascot.adapters.token_rows import (
    ENCODERS,
    TokenRecord,
    bundle_prefix,
    read_records,
    rows_from_file,
    rows_of,
    rows_to_file,
    write_records,
)
from mascot.errors import UserError
from mascot.models.token_embeddings import initial_rows
from mascot.protocols import (
    AttachedMethod,
    Companion,
    ParameterGroup,
    ScheduledPhase,
    Stage,
    Subject,
    Vocabulary,
)


class TextualInversionSettings(BaseModel):
    """Recipe settings of textual inversion: the token's rows and how they are trained.

    The optimizer's weight decay shrinks the rows. `norm_pull` undoes that after each step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["textual-inversion"] = Field(default="textual-inversion", description="name of the method")
    vectors: int = Field(
        default=1,
        ge=1,
        le=64,
        description="embedding rows of the token: more hold more detail, but follow prompts less and shorten them",
    )
    initial: str | None = Field(
        default=None,
        pattern=r"\S",
        description="words whose embeddings the rows start from; none takes the class noun, or the token itself",
    )
    learning_rate: float = Field(
        default=2e-3,
        gt=0,
        le=1,
        description="learning rate of the rows; the paper's base rate is 5e-3, diffusers' example comes to 2e-3",
    )
    norm_pull: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the way to the vocabulary's typical norm that rows are pulled after each step; 0 is off",
    )

    @property
    def trains_token(self) -> bool:
        """The token gets embeddings of its own, which stand for its word in every prompt."""
        return True

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """The only phase, for all steps."""
        return (ScheduledPhase(phase=self),)

    @property
    def changes(self) -> Sides:
        """The text encoders' embeddings."""
        return frozenset({TEXT_ENCODERS})

    @property
    def unused(self) -> Mapping[str, str]:
        """Every setting is used."""
        return {}

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """List the text encoders whose embeddings can be trained.

        Raises:
            UserError: the base model has none.
        """
        return tuple(trainable_vocabularies(stage))

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> TokenTraining:
        """Add each subject's token to every vocabulary, with `initial_rows`; nothing is random.

        Raises:
            UserError: the base model has no embeddings that can be trained, or a text encoder has
                no token for the initial words.
        """
        del seed
        assert before is None, "this phase is never preceded by another"
        vocabularies = trainable_vocabularies(stage)
        for module in stage.parts.values():
            module.requires_grad_(requires_grad=False)
        attached = TokenTraining(
            tokens=tuple(self.trained_token(one, vocabularies) for one in subject.all),
            vocabularies=vocabularies,
            learning_rate=self.learning_rate,
            norm_pull=self.norm_pull,
            typical_norms={part: vocabulary.typical_norm for part, vocabulary in vocabularies.items()},
        )
        attached.apply()
        return attached

    def trained_token(self, subject: Subject, vocabularies: Mapping[str, Vocabulary]) -> TrainedToken:
        """Make the rows of one subject's token."""
        initial = self.initial or subject.class_noun or subject.token
        return TrainedToken(
            record=TokenRecord(token=subject.token, vectors=self.vectors, initial=dict.fromkeys(vocabularies, initial)),
            rows={
                part: nn.Parameter(initial_rows(vocabulary.embeddings(initial), self.vectors))
                for part, vocabulary in vocabularies.items()
            },
            subject=subject,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedToken:
    """One subject's token and its embedding rows during training."""

    record: TokenRecord
    rows: Mapping[str, nn.Parameter]
    """Text encoder -> the token's rows, N x D, float32."""
    subject: Subject

    def file(self) -> dict[str, Tensor]:
        """Return the rows as a file of their own names them."""
        return rows_to_file(self.rows, self.record.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTraining:
    """The embedding rows of all subjects' tokens during training."""

    tokens: tuple[TrainedToken, ...]
    vocabularies: Mapping[str, Vocabulary]
    """Text encoder -> its vocabulary, which holds the tokens."""
    learning_rate: float
    norm_pull: float
    typical_norms: Mapping[str, float]
    """Text encoder -> the typical norm of its vocabulary's rows."""
    changes_base: Literal[False] = False

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """One parameter group of rows for each token and text encoder."""
        return tuple(
            ParameterGroup(
                part=part,
                parameters=(rows_ND,),
                learning_rate=self.learning_rate,
                detail="token" if len(self.tokens) == 1 else f"token of {token.subject.name}",
            )
            for token in self.tokens
            for part, rows_ND in token.rows.items()
        )

    def after_step(self) -> None:
        """Pull the rows' norms towards the typical norm of their vocabulary."""
        for token in self.tokens:
            for part, rows_ND in token.rows.items():
                pull_norms(rows_ND, self.typical_norms[part], self.norm_pull)

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Remove the tokens while the context lasts; afterwards the same rows are trained on."""
        self.detach()
        try:
            yield
        finally:
            self.apply()

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the rows as diffusers' `load_textual_inversion` reads them, float32.

        They are `{token: N x D}`, or `{clip_l: N x D, clip_g: N x D}` for two text encoders. With
        several tokens, each one's names get the prefix `bundle_emb.TOKEN.`.
        """
        metadata = write_records([token.record for token in self.tokens])
        first, *others = self.tokens
        return (self.bundle() if others else first.file()), metadata

    def bundle(self) -> dict[str, Tensor]:
        """Return the rows of all tokens with the prefix `bundle_emb.TOKEN.`."""
        return {
            f"{bundle_prefix(token.record.token)}{key}": rows_ND
            for token in self.tokens
            for key, rows_ND in token.file().items()
        }

    def companions(self) -> Mapping[str, Companion]:
        """Return a file for each of several tokens, as other tools read one; one needs none."""
        return {
            f"token_{token.subject.name}": Companion(
                tensors=token.file(),
                metadata=write_records([token.record]),
                method="textual-inversion",
                subject=token.subject,
            )
            for token in self.tokens
            if len(self.tokens) > 1
        }

    def apply(self) -> None:
        """Add the tokens' rows to the vocabularies, at first or again."""
        for token in self.tokens:
            for part, vocabulary in self.vocabularies.items():
                vocabulary.add(token.record.token, token.rows[part])

    def detach(self) -> None:
        """Restore the base model's own vocabularies."""
        for vocabulary in self.vocabularies.values():
            vocabulary.remove()


@dataclass(frozen=True, slots=True)
class AppliedToken:
    """One token of a loaded adapter: its rows before and after training."""

    record: TokenRecord
    initial: Mapping[str, Tensor]
    """Text encoder -> the rows before training, N x D."""
    trained: Mapping[str, Tensor]
    """Text encoder -> the trained rows, N x D."""


@dataclass(frozen=True, slots=True)
class TokenApplied:
    """The tokens of a loaded adapter, for generation."""

    tokens: tuple[AppliedToken, ...]
    vocabularies: Mapping[str, Vocabulary]
    strengths: dict[str, float] = field(default_factory=dict[str, float])
    """Text encoder -> its present strength."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each text encoder's strength s, 1 where missing.

        The rows become initial + s x (trained - initial). 1 gives exactly the trained rows, and 0
        removes the tokens.
        """
        for part, vocabulary in self.vocabularies.items():
            strength = scales.get(part, 1.0)
            if strength == self.strengths.get(part, 0.0):
                continue
            vocabulary.remove([token.record.token for token in self.tokens])
            for token in self.tokens if strength != 0 else ():
                trained_ND = token.trained[part]
                rows_ND = trained_ND if strength == 1 else torch.lerp(token.initial[part], trained_ND, strength)
                vocabulary.add(token.record.token, nn.Parameter(rows_ND, requires_grad=False))
            self.strengths[part] = strength

    def remove(self) -> None:
        """Remove the tokens from the vocabularies."""
        self.scale(dict.fromkeys(self.vocabularies, 0.0))

    def changes(self) -> Iterator[tuple[str, float]]:
        """Yield each token's change in each text encoder, as a share of its initial rows."""
        for token in self.tokens:
            for part, rows_ND in token.trained.items():
                before_ND = token.initial[part]
                yield f"{part}, {token.record.token}", ((rows_ND - before_ND).norm() / (before_ND.norm() or 1.0)).item()


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TokenApplied:
    """Apply exported tokens, at full strength, to a stage, beside the adapters that it has.

    Raises:
        UserError: the file does not name its tokens, or their rows do not fit this base model.
    """
    vocabularies = trainable_vocabularies(stage)
    records = read_records(metadata)
    tokens = [
        applied_token(record, vocabularies, rows_of(record.token, tensors) if len(records) > 1 else tensors)
        for record in records
    ]
    applied = TokenApplied(tuple(tokens), vocabularies)
    applied.scale({})
    return applied


def applied_token(
    record: TokenRecord, vocabularies: Mapping[str, Vocabulary], tensors: Mapping[str, Tensor]
) -> AppliedToken:
    """Read one token's rows from its tensors.

    Raises:
        UserError: they do not fit these vocabularies.
    """
    if record.initial.keys() != vocabularies.keys():
        trained, ours = " and ".join(record.initial), " and ".join(vocabularies)
        raise UserError(
            f"this adapter trained its token in {trained}, this base has {ours}; use the base it was trained on."
        )
    initial = {
        part: initial_rows(vocabulary.embeddings(record.initial[part]), record.vectors)
        for part, vocabulary in vocabularies.items()
    }
    return AppliedToken(record, initial, rows_from_file(tensors, record.token, initial))


def changes(keys: Iterable[str]) -> Sides:
    """Tell which sides of a base an export changes: the text encoders' embeddings alone."""
    del keys
    return frozenset({TEXT_ENCODERS})


def conflicts(settings: TextualInversionSettings, before: TextualInversionSettings) -> dict[str, object]:
    """List what stands against training on: another number of rows."""
    return {} if settings.vectors == before.vectors else {"method.vectors": before.vectors}


def take_over(attached: AttachedMethod, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Start the token's rows from exported ones.

    Raises:
        UserError: the file names another token, or its rows have other shapes.
    """
    assert isinstance(attached, TokenTraining)
    token = read_records(metadata)[0].token
    if token != attached.tokens[0].record.token:
        raise UserError(f"the adapter to start from trained the token {token!r}; give --token {token}.")
    for part, rows_ND in rows_from_file(
        tensors, token, {p: rows.data for p, rows in attached.tokens[0].rows.items()}
    ).items():
        attached.tokens[0].rows[part].data.copy_(rows_ND)


def trainable_vocabularies(stage: Stage) -> Mapping[str, Vocabulary]:
    """Return the vocabularies of a stage whose embeddings can be trained, by text encoder.

    Raises:
        UserError: the stage has none, or more than a file has names for.
    """
    vocabularies = stage.vocabularies
    if not vocabularies:
        raise UserError(
            "no text encoder of this base has embeddings that can be trained (its T5 never is); "
            "choose another method, such as lora."
        )
    if len(vocabularies) > len(ENCODERS):
        raise UserError(
            f"this base has {len(vocabularies)} text encoders with embeddings to train, and files name two; "
            "choose another method."
        )
    return vocabularies


@torch.no_grad()
def pull_norms(rows_ND: Tensor, norm: float, share: float) -> None:
    """Change each row's norm l to l^(1 - share) x norm^share, in place.

    Directions stay, and rows of zeros too.
    """
    if share > 0:
        length_N1 = rows_ND.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows_ND.dtype).tiny)
        rows_ND.mul_((norm / length_N1) ** share)
