"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): trains embeddings of one token.

It trains the embedding rows of the identifier token in each text encoder. The base model's own
weights stay frozen.

Shape suffixes: N embedding rows of the token, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mascot.adapters.sides import TEXT_ENCODERS, Sides
from mascot.errors import UserError
from mascot.protocols import (
    AttachedMethod,
    Companion,
    ParameterGroup,
    ScheduledPhase,
    Stage,
    Subject,
    Vocabulary,
)

METADATA_KEY = "textual_inversion"
"""Metadata key of the `TokenRecord`.

diffusers takes the token from the only tensor's name, or from its caller.
"""
ENCODERS = ("clip_l", "clip_g")
"""Tensor names of two text encoders' rows in a file, in the encoders' order."""


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
        """Add the token to every vocabulary, with rows from `initial_rows`; nothing is random.

        Raises:
            UserError: the base model has no embeddings that can be trained, or a text encoder has
                no token for the initial words.
        """
        del seed
        assert before is None, "this phase is never preceded by another"
        vocabularies = trainable_vocabularies(stage)
        for module in stage.parts.values():
            module.requires_grad_(requires_grad=False)
        initial = self.initial or subject.class_noun or subject.token
        rows = {
            part: nn.Parameter(initial_rows(vocabulary.embeddings(initial), self.vectors))
            for part, vocabulary in vocabularies.items()
        }
        attached = TokenTraining(
            record=TokenRecord(token=subject.token, vectors=self.vectors, initial=dict.fromkeys(vocabularies, initial)),
            vocabularies=vocabularies,
            rows=rows,
            learning_rate=self.learning_rate,
            norm_pull=self.norm_pull,
            typical_norms={part: vocabulary.typical_norm for part, vocabulary in vocabularies.items()},
        )
        attached.apply()
        return attached


class TokenRecord(BaseModel):
    """What a file's metadata says about its token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"\S")
    vectors: int = Field(ge=1, le=64)
    """Embedding rows of the token, N."""
    initial: dict[str, str]
    """Text encoder -> the words that its rows started from."""

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Self:
        """Read the record that `write` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return cls.model_validate_json(metadata[METADATA_KEY])
        except KeyError:
            raise UserError(
                "this adapter does not say which token it trained; export it again with its metadata."
            ) from None
        except ValidationError as error:
            raise UserError("this adapter's metadata is damaged; export it again.") from error

    def write(self) -> dict[str, str]:
        """Return the record as metadata of a safetensors file."""
        return {METADATA_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTraining:
    """The token's embedding rows during training."""

    record: TokenRecord
    vocabularies: Mapping[str, Vocabulary]
    """Text encoder -> its vocabulary, which holds the token."""
    rows: Mapping[str, nn.Parameter]
    """Text encoder -> the token's rows, N x D, float32."""
    learning_rate: float
    norm_pull: float
    typical_norms: Mapping[str, float]
    """Text encoder -> the typical norm of its vocabulary's rows."""
    changes_base: Literal[False] = False

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """One parameter group of rows for each text encoder."""
        return tuple(
            ParameterGroup(part=part, parameters=(rows_ND,), learning_rate=self.learning_rate, detail="token")
            for part, rows_ND in self.rows.items()
        )

    def after_step(self) -> None:
        """Pull the rows' norms towards the typical norm of their vocabulary."""
        for part, rows_ND in self.rows.items():
            pull_norms(rows_ND, self.typical_norms[part], self.norm_pull)

    @contextmanager
    def base_only(self) -> Generator[None]:
        """Remove the token while the context lasts; afterwards the same rows are trained on."""
        self.detach()
        try:
            yield
        finally:
            self.apply()

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the rows as diffusers' `load_textual_inversion` reads them, float32.

        They are `{token: N x D}`, or `{clip_l: N x D, clip_g: N x D}` for two text encoders.
        """
        return rows_to_file(self.rows, self.record.token), self.record.write()

    @staticmethod
    def companions() -> Mapping[str, Companion]:
        """Return no companion files: other tools read the export itself."""
        return {}

    def apply(self) -> None:
        """Add the token's rows to the vocabularies, at first or again."""
        for part, vocabulary in self.vocabularies.items():
            vocabulary.add(self.record.token, self.rows[part])

    def detach(self) -> None:
        """Restore the base model's own vocabularies."""
        for vocabulary in self.vocabularies.values():
            vocabulary.remove()


@dataclass(frozen=True, slots=True)
class TokenApplied:
    """The token of a loaded adapter, for generation."""

    record: TokenRecord
    vocabularies: Mapping[str, Vocabulary]
    initial: Mapping[str, Tensor]
    """Text encoder -> the rows before training, N x D."""
    trained: Mapping[str, Tensor]
    """Text encoder -> the trained rows, N x D."""

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each text encoder's strength s, 1 where missing.

        The rows become initial + s x (trained - initial). 1 gives exactly the trained rows, and 0
        removes the token.
        """
        for part, vocabulary in self.vocabularies.items():
            strength, trained_ND = scales.get(part, 1.0), self.trained[part]
            vocabulary.remove()
            if strength != 0:
                rows_ND = trained_ND if strength == 1 else torch.lerp(self.initial[part], trained_ND, strength)
                vocabulary.add(self.record.token, nn.Parameter(rows_ND, requires_grad=False))

    def remove(self) -> None:
        """Restore the base model's own vocabularies."""
        for vocabulary in self.vocabularies.values():
            vocabulary.remove()


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TokenApplied:
    """Apply an exported token, at full strength, to a stage that has no adapter.

    Raises:
        UserError: the file does not name its token, or its rows do not fit this base model.
    """
    vocabularies = trainable_vocabularies(stage)
    record = TokenRecord.read(metadata)
    if record.initial.keys() != vocabularies.keys():
        trained, ours = " and ".join(record.initial), " and ".join(vocabularies)
        raise UserError(
            f"this adapter trained its token in {trained}, this base has {ours}; use the base it was trained on."
        )
    initial = {
        part: initial_rows(vocabulary.embeddings(record.initial[part]), record.vectors)
        for part, vocabulary in vocabularies.items()
    }
    applied = TokenApplied(record, vocabularies, initial, rows_from_file(tensors, record.token, initial))
    applied.scale({})
    return applied


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
    token = TokenRecord.read(metadata).token
    if token != attached.record.token:
        raise UserError(f"the adapter to start from trained the token {token!r}; give --token {token}.")
    for part, rows_ND in rows_from_file(tensors, token, {p: rows.data for p, rows in attached.rows.items()}).items():
        attached.rows[part].data.copy_(rows_ND)


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


def initial_rows(embeddings_ND: Tensor, count: int) -> Tensor:
    """Make `count` initial rows from the n embeddings of some words, float32, in their order.

    Where n is smaller, embeddings are repeated: row i is embedding i x n // count. Where n is
    larger, they are cut into `count` runs, as equal as possible with the longer ones first. Each
    row is the mean of a run.

    Raises:
        UserError: there are no embeddings.
    """
    have = len(embeddings_ND)
    if have == 0:
        raise UserError("the initial words have no token of their own; give a plain word (--set method.initial=dog).")
    if have <= count:
        return embeddings_ND[torch.arange(count, device=embeddings_ND.device) * have // count].clone()
    return torch.stack([run_ND.mean(0) for run_ND in torch.tensor_split(embeddings_ND, count)])


@torch.no_grad()
def pull_norms(rows_ND: Tensor, norm: float, share: float) -> None:
    """Change each row's norm l to l^(1 - share) x norm^share, in place.

    Directions stay, and rows of zeros too.
    """
    if share > 0:
        length_N1 = rows_ND.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows_ND.dtype).tiny)
        rows_ND.mul_((norm / length_N1) ** share)


def file_keys(parts: Iterable[str], token: str) -> dict[str, str]:
    """Map each text encoder to the name of its rows in a file.

    The name is the token itself where there is one text encoder, else one of ENCODERS.
    """
    names = tuple(parts)
    return dict.fromkeys(names, token) if len(names) == 1 else dict(zip(names, ENCODERS, strict=True))


def rows_to_file(rows: Mapping[str, Tensor], token: str) -> dict[str, Tensor]:
    """Copy each text encoder's rows under their name in a file, float32, to the CPU.

    A method that writes more tensors may put a prefix before these names.
    """
    keys = file_keys(rows, token)
    return {keys[part]: rows_ND.detach().float().cpu().clone().contiguous() for part, rows_ND in rows.items()}


def rows_from_file(tensors: Mapping[str, Tensor], token: str, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy rows from a file by text encoder; the inverse of `rows_to_file`.

    The copies have the dtypes and devices of `initial`, and must have its shapes.

    Raises:
        UserError: names or shapes differ from those of this base model.
    """
    keys = file_keys(initial, token)
    need = {keys[part]: tuple(rows_ND.shape) for part, rows_ND in initial.items()}
    have = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if need != have:
        found = ", ".join(f"{key} {shape}" for key, shape in list(have.items())[:3]) or "nothing"
        wanted = ", ".join(f"{key} {shape}" for key, shape in need.items())
        raise UserError(
            f"this adapter does not fit the base: it holds {found}, and {wanted} is needed; "
            "use the base it was trained on."
        )
    return {part: tensors[keys[part]].to(rows_ND).clone() for part, rows_ND in initial.items()}
