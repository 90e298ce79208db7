"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): the base stays as it is; one new word learns to mean the subject.

Shape suffixes: N rows of the word, D width of an embedding.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mascot.errors import UserError
from mascot.protocols import AttachedMethod, Companion, ParameterGroup, ScheduledPhase, Stage, Subject, Vocabulary

METADATA_KEY = "textual_inversion"
"""Where a file says its word: diffusers takes it from the only tensor's name, or from its caller."""
ENCODERS = ("clip_l", "clip_g")
"""What files call the rows of several text encoders, in the encoders' order."""


class TextualInversionSettings(BaseModel):
    """What a word is and how fast it learns.

    The optimizer's weight decay pulls rows towards zero; the pull towards the vocabulary's length undoes that after each step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["textual-inversion"] = Field(default="textual-inversion", description="which method this is")
    vectors: int = Field(
        default=1,
        ge=1,
        le=64,
        description="rows of the word: more hold more of the subject, bend less to prompts and take their room",
    )
    initial: str | None = Field(
        default=None,
        pattern=r"\S",
        description="words whose meaning the token starts from; none takes the class noun, or the token itself",
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
        description="share of the way to the vocabulary's typical length that rows go after each step; 0 lets them go",
    )

    @property
    def phases(self) -> tuple[ScheduledPhase, ...]:
        """One phase, the whole run long."""
        return (ScheduledPhase(phase=self),)

    def trains(self, stage: Stage) -> tuple[str, ...]:
        """The text encoders whose words may learn.

        Raises:
            UserError: the base has none.
        """
        return tuple(learnable(stage))

    def attach(self, stage: Stage, subject: Subject, seed: int, before: AttachedMethod | None) -> TokenTraining:
        """Put the token into every vocabulary, with rows that start from the initial words (see `spread`); nothing is random.

        Raises:
            UserError: the base has no words that can learn, or the initial words are none to one of its text encoders.
        """
        del seed
        assert before is None, "this is a phase that others follow"
        vocabularies = learnable(stage)
        for module in stage.parts.values():
            module.requires_grad_(requires_grad=False)
        initial = self.initial or subject.class_noun or subject.token
        rows = {
            part: nn.Parameter(spread(words.meaning(initial), self.vectors)) for part, words in vocabularies.items()
        }
        word = TokenRecord(token=subject.token, vectors=self.vectors, initial=dict.fromkeys(vocabularies, initial))
        norms = {part: words.typical_norm for part, words in vocabularies.items()}
        attached = TokenTraining(
            word=word,
            vocabularies=vocabularies,
            rows=rows,
            learning_rate=self.learning_rate,
            norm_pull=self.norm_pull,
            norms=norms,
        )
        attached.learn()
        return attached


class TokenRecord(BaseModel):
    """What a file says of its word: the token, how many rows it has, and from which words they started in each text encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(pattern=r"\S")
    vectors: int = Field(ge=1, le=64)
    initial: dict[str, str]

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Self:
        """Read what `write` wrote.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            return cls.model_validate_json(metadata[METADATA_KEY])
        except KeyError:
            raise UserError(
                "this adapter does not say which word it taught; export it again with its metadata."
            ) from None
        except ValidationError as error:
            raise UserError("this adapter's metadata is damaged; export it again.") from error

    def write(self) -> dict[str, str]:
        """Put it under its key, for a safetensors header."""
        return {METADATA_KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTraining:
    """A word that learns."""

    word: TokenRecord
    vocabularies: Mapping[str, Vocabulary]
    rows: Mapping[str, nn.Parameter]
    """Text encoder's name -> the word's rows, N x D, float32."""
    learning_rate: float
    norm_pull: float
    norms: Mapping[str, float]
    """Text encoder's name -> the typical length of its vocabulary's rows."""
    changes_base: Literal[False] = False

    @property
    def groups(self) -> tuple[ParameterGroup, ...]:
        """The rows, one group for each text encoder."""
        return tuple(
            ParameterGroup(part=part, parameters=(rows_ND,), learning_rate=self.learning_rate, detail="token")
            for part, rows_ND in self.rows.items()
        )

    def after_step(self) -> None:
        """Pull the rows' lengths towards the vocabulary's."""
        for part, rows_ND in self.rows.items():
            pull(rows_ND, self.norms[part], self.norm_pull)

    @contextmanager
    def base_only(self) -> Generator[None]:
        """The base with its own vocabulary; the same rows learn on afterwards."""
        self.detach()
        try:
            yield
        finally:
            self.learn()

    def export(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The rows as diffusers' `load_textual_inversion` reads them, float32: `{token: N x D}`, or `{clip_l: N x D, clip_g: N x D}`."""
        return to_file(self.rows, self.word.token), self.word.write()

    @staticmethod
    def companions() -> Mapping[str, Companion]:
        """None: the export is what other tools read."""
        return {}

    def learn(self) -> None:
        """Put the word into the vocabularies (again)."""
        for part, words in self.vocabularies.items():
            words.learn(self.word.token, self.rows[part])

    def detach(self) -> None:
        """Give the base's own vocabularies back."""
        for words in self.vocabularies.values():
            words.forget()


@dataclass(frozen=True, slots=True)
class TokenApplied:
    """A word that draws."""

    word: TokenRecord
    vocabularies: Mapping[str, Vocabulary]
    initial: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]

    def scale(self, scales: Mapping[str, float]) -> None:
        """Set each text encoder's strength s: rows = initial + s x (trained - initial); 1 is the trained bits, 0 switches the word off."""
        for part, words in self.vocabularies.items():
            strength, trained_ND = scales.get(part, 1.0), self.trained[part]
            words.forget()
            if strength != 0:
                rows_ND = trained_ND if strength == 1 else torch.lerp(self.initial[part], trained_ND, strength)
                words.learn(self.word.token, nn.Parameter(rows_ND, requires_grad=False))

    def remove(self) -> None:
        """Give the base's own vocabularies back."""
        for words in self.vocabularies.values():
            words.forget()


def restore(stage: Stage, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> TokenApplied:
    """Put an exported word on a stage that has none, at full strength.

    Raises:
        UserError: the file does not say its word, or its rows are not this base's.
    """
    vocabularies = learnable(stage)
    word = TokenRecord.read(metadata)
    if word.initial.keys() != vocabularies.keys():
        taught, ours = " and ".join(word.initial), " and ".join(vocabularies)
        raise UserError(
            f"this adapter taught its word to {taught}, this base has {ours}; use the base it was trained on."
        )
    initial = {part: spread(words.meaning(word.initial[part]), word.vectors) for part, words in vocabularies.items()}
    applied = TokenApplied(word, vocabularies, initial, from_file(tensors, word.token, initial))
    applied.scale({})
    return applied


def learnable(stage: Stage) -> Mapping[str, Vocabulary]:
    """The stage's vocabularies.

    Raises:
        UserError: it has none, or more than files have names for.
    """
    vocabularies = stage.vocabularies
    if not vocabularies:
        raise UserError(
            "no text encoder of this base has words that can learn (its T5 is never trained); choose another method, such as lora."
        )
    if len(vocabularies) > len(ENCODERS):
        raise UserError(
            f"this base has {len(vocabularies)} text encoders whose words learn, and files name two; choose another method."
        )
    return vocabularies


def spread(meaning_ND: Tensor, count: int) -> Tensor:
    """Make `count` rows of the n rows of some words, float32, in their order.

    Fewer words are repeated: row i starts as word i x n // count. More are averaged: the words are cut into `count` runs, as equal as can
    be with the longer ones first, and each row starts as the mean of a run.

    Raises:
        UserError: there are no rows.
    """
    have = len(meaning_ND)
    if have == 0:
        raise UserError(
            "the words that the token shall start from have no token of their own; give a plain word (--set method.initial=dog)."
        )
    if have <= count:
        return meaning_ND[torch.arange(count, device=meaning_ND.device) * have // count].clone()
    return torch.stack([run_ND.mean(0) for run_ND in torch.tensor_split(meaning_ND, count)])


@torch.no_grad()
def pull(rows_ND: Tensor, norm: float, share: float) -> None:
    """Bring each row's length l to l^(1 - share) x norm^share, in place; its direction stays, and a row of zeros too."""
    if share > 0:
        length_N1 = rows_ND.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows_ND.dtype).tiny)
        rows_ND.mul_((norm / length_N1) ** share)


def file_keys(parts: Mapping[str, Any], token: str) -> dict[str, str]:
    """Text encoder's name -> what its rows are called in a file: the token itself where there is one encoder."""
    return dict.fromkeys(parts, token) if len(parts) == 1 else dict(zip(parts, ENCODERS, strict=True))


def to_file(rows: Mapping[str, Tensor], token: str) -> dict[str, Tensor]:
    """Rows of each text encoder under their names in a file; a method that writes more beside them may put a prefix before these."""
    keys = file_keys(rows, token)
    return {keys[part]: rows_ND.detach().float().cpu().clone().contiguous() for part, rows_ND in rows.items()}


def from_file(tensors: Mapping[str, Tensor], token: str, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_file`: rows by text encoder, of the shapes and on the devices of `initial`.

    Raises:
        UserError: names or shapes differ from what this base needs.
    """
    keys = file_keys(initial, token)
    need = {keys[part]: tuple(rows_ND.shape) for part, rows_ND in initial.items()}
    have = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if need != have:
        wrong = ", ".join(f"{key} {shape}" for key, shape in list(have.items())[:3]) or "nothing"
        wanted = ", ".join(f"{key} {shape}" for key, shape in need.items())
        raise UserError(
            f"this adapter does not fit the base: it holds {wrong}, and {wanted} is needed; use the base it was trained on."
        )
    return {part: tensors[keys[part]].to(rows_ND).clone() for part, rows_ND in initial.items()}
