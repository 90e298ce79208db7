"""What a subject is called where the user names no token: the word that means least to its base, found once and remembered.

What is found is kept as JSON by what decided it; for the embedded base it lies in the package (`starter/token.json`). Where pictures cannot
be judged, or would take hours, the words are only read; where nothing can be found, `sks` has to do. It is always said which.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import default_encoder_names, load_encoders
from mascot.evaluation.selection.rare_words import LONGEST
from mascot.evaluation.selection.token_scoring import (
    CANDIDATES,
    IMAGES,
    KNOBS,
    PHOTO,
    READ,
    REFERENCES,
    TokenCandidate,
    TokenExaminer,
    TokenReader,
)
from mascot.evaluation.selection.word_lists import NOUNS, SHORT_WORDS
from mascot.generation.generator import Generator
from mascot.generation.sample_cache import SampleCache
from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.families.registry import load_family
from mascot.progress import OnEvent, TokenSearchStarted, ignore
from mascot.protocols import COMMON_TOKEN, Family
from mascot.recipe.recipe import Recipe
from mascot.storage.json_record import JsonRecord
from mascot.storage.user_cache import cache_folder

FOLKLORE_NOTE = (
    "It is folklore, not from the paper; a base that has learned from the web's captions knows a rifle of that name."
)


SEED = 0
"""Of the search that is remembered."""


SMALL = 100_000_000
"""Weights of a denoiser that draws a search's pictures on a CPU in a minute; a larger one is only read there."""


class ChosenToken(JsonRecord):
    """What subjects are called on one base where nobody says, and why."""

    damaged = "{path} is damaged; delete it, and the token is looked for again."

    version: Literal[1] = 1
    token: str
    why: str
    """How it was come by, to be read after the token and a comma."""
    decided_by: dict[str, str]
    """All that the answer depends on: base, judges and the settings of the search."""

    @classmethod
    def of(cls, best: TokenCandidate, rare: int, decided_by: Mapping[str, str]) -> Self:
        """Take the best of what was found among so many rare words."""
        why = f"found in this base: of {rare} rare words it means least ({best.meaning:.2f}, where a noun means 1)"
        return cls(token=best.token, why=why, decided_by=dict(decided_by))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSearch:
    """What was found in a base."""

    tokens: tuple[TokenCandidate, ...]
    """The best first."""
    folklore: TokenCandidate
    """`sks`, for comparison."""
    rare: int
    """Words that were rare enough to be considered."""
    nouns: tuple[str, ...]
    """What was drawn for comparison."""
    encoders: Mapping[str, str]
    """Which encoders looked at the pictures."""


def choose_token(
    recipe: Recipe, family: Family, *, folder: Path | None = None, on_event: OnEvent = ignore
) -> tuple[Recipe, str]:
    """Give a recipe that names no token the one that its untouched base suggests, and say why; one that names it comes back as it is.

    See `find_or_recall_token`. The base must be the recipe's own, and is left as it was.
    """
    if recipe.token is not None:
        return recipe, ""
    name = find_or_recall_token(
        family, recipe.base, device=choose_device(recipe.device), folder=folder, on_event=on_event
    )
    return recipe.model_copy(update={"token": name.token}), name.why


def find_or_recall_token(
    family: Family, base: str, *, device: str = "cpu", folder: Path | None = None, on_event: OnEvent = ignore
) -> ChosenToken:
    """Look up what subjects of a loaded, untouched base are called, or find it: the same every time.

    It costs nothing from the second time on, and on the embedded base never; the first search draws 96 pictures of 12 steps. Where they
    cannot be judged, or a large base would draw them on a CPU, the word that reads least like a noun is taken; where the vocabulary has
    none, `sks`. Neither is remembered. `TokenSearchStarted` is emitted before any image is generated.

    Raises:
        UserError: what was remembered is damaged, or pictures cannot be drawn or kept.
    """
    decided_by = facts_of(family, base)
    known = recall(decided_by, folder)
    if known is not None:
        return known
    try:
        reader = TokenReader(family)
        words = reader.least(count=CANDIDATES, seed=SEED)
    except UserError as error:
        return ChosenToken(token=COMMON_TOKEN, why=f"as most tutorials have it: {error}", decided_by=decided_by)
    if device == "cpu" and weights_of(family) > SMALL:
        return read_alone(
            reader, words[0], f"on a CPU that would take long; `mascot token --base {base}` does it once", decided_by
        )
    try:
        encoders = load_encoders(base, device=device)
    except UserError as error:
        return read_alone(reader, words[0], str(error), decided_by)
    examiner = TokenExaminer(Generator(family), encoders, token_samples(folder), seed=SEED)
    on_event(TokenSearchStarted(images=IMAGES * (len(words) + len(examiner.references))))
    name = ChosenToken.of(examiner.find(count=1)[0], len(reader.rare), decided_by)
    name.write(place_of(decided_by, folder))
    return name


def read_alone(reader: TokenReader, word: str, why_not: str, decided_by: Mapping[str, str]) -> ChosenToken:
    """Name the word that reads least like a noun, and say why it was not drawn."""
    likeness = max(0.0, reader.read(word).value)
    why = f"which of {len(reader.rare)} rare words reads least like a noun ({likeness:.0%} of the way); none was drawn: {why_not}"
    return ChosenToken(token=word, why=why, decided_by=dict(decided_by))


def facts_of(family: Family, base: str) -> dict[str, str]:
    """All that decides which token is found: the base's weights, who judges, and the settings of the search."""
    words = hashlib.sha256(" ".join([*NOUNS, "|", *sorted(SHORT_WORDS)]).encode()).hexdigest()[:16]
    search = f"{CANDIDATES} of {READ * CANDIDATES} words of {LONGEST} letters, {IMAGES} pictures, {REFERENCES} nouns, seed {SEED}, {PHOTO}"
    return {
        "base": family.identity, **default_encoder_names(base), "search": search, "knobs": json.dumps(KNOBS.model_dump(), sort_keys=True),
        "words": words,
    }  # fmt: skip


def recall(decided_by: Mapping[str, str], folder: Path | None = None) -> ChosenToken | None:
    """What was found before, in the package or in the user's cache; None where nothing was."""
    packaged = starter.token_file()
    for path in (packaged, place_of(decided_by, folder)):
        if path.exists():
            name = ChosenToken.read(path)
            if name.decided_by == decided_by:
                return name
    return None


def place_of(decided_by: Mapping[str, str], folder: Path | None) -> Path:
    """Where a name is remembered."""
    key = hashlib.sha256(json.dumps(dict(decided_by), sort_keys=True).encode()).hexdigest()[:20]
    return (folder or token_folder()) / f"{key}.json"


def token_folder() -> Path:
    """Where names and their pictures are kept unless another folder is given."""
    return cache_folder() / "tokens"


def token_samples(folder: Path | None) -> SampleCache:
    """The pictures of searches."""
    return SampleCache(folder or token_folder())


def weights_of(family: Family) -> int:
    """Weights of a base's denoisers, all stages together."""
    return sum(parameter.numel() for stage in family.stages for parameter in stage.parts[stage.denoiser].parameters())


def open_examiner(base: str, *, seed: int = SEED, device: str = "cpu", folder: Path | None = None) -> TokenExaminer:
    """Load a base and the encoders that judge it; pictures are kept in `folder`, by default in the user's cache.

    Raises:
        UserError: the base or a judge cannot be loaded, or the base's vocabulary has no noun to compare with.
    """
    generator = Generator(load_family(base, device=device, precision="fp32" if device == "cpu" else "bf16"))
    return TokenExaminer(generator, load_encoders(base, device=device), token_samples(folder), seed=seed)


def rows_of(findings: TokenSearch) -> list[tuple[str, str]]:
    """What a terminal shows: a row for each token and for `sks`, then what was considered and who judged."""
    rows = [(candidate.token, describe(candidate)) for candidate in findings.tokens]
    rows.append((COMMON_TOKEN, f"{describe(findings.folklore)} {FOLKLORE_NOTE}"))
    rows.append(
        (
            "considered",
            f"{findings.rare} words of 1 to {LONGEST} letters that are rare in this base's vocabulary and no known words",
        )
    )
    rows.append(
        ("compared with", f"pictures of {', '.join(findings.nouns)}; 0 is nothing in particular, 1 as much as a noun")
    )
    return [*rows, *((f"judge of {what}", line) for what, line in findings.encoders.items())]


def describe(candidate: TokenCandidate) -> str:
    """All numbers of a candidate in one line."""
    spelled = "; ".join(spelling.describe() for spelling in candidate.spellings)
    return f"{candidate.meaning:.2f}: {candidate.why} {spelled}."
