"""Token choice: the identifier token of subjects for which the user names none.

It is the rare word that means least to the base model. The result is cached as JSON by everything
that decided it; for the embedded base it is part of the package (`starter/token.json`). Where
images cannot be scored, or would take hours, text embeddings alone decide. Where no word is found,
the token is `sks`. The user is always told which case it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

from mascot.data.prompt_templates import COMMON_TOKEN
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, default_encoder_names, load_encoders
from mascot.evaluation.selection.rare_words import MAXIMUM_LETTERS
from mascot.evaluation.selection.token_scoring import (
    CANDIDATES,
    IMAGES_PER_WORD,
    PROMPT,
    REFERENCE_NOUNS,
    SAMPLED_PER_CANDIDATE,
    SEARCH_KNOBS,
    TextTokenScorer,
    TokenCandidate,
    TokenScorer,
)
from mascot.evaluation.selection.word_lists import NOUNS, SHORT_WORDS
from mascot.generation.generator import Generator
from mascot.generation.sample_cache import SampleCache
from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.families.registry import describe, load_family
from mascot.progress import OnEvent, TokenSearchStarted, ignore
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe, with_tokens
from mascot.recipe.subject_tables import overlap
from mascot.storage.json_record import CachedRecord
from mascot.storage.user_cache import cache_folder

NOTE_ON_SKS = (
    "It is folklore, not from the paper; a base that was trained on the web's captions knows a rifle of that name."
)

SEED = 0
"""Seed of the search whose result is cached."""

CPU_WEIGHT_LIMIT = 100_000_000
"""Most weights of a denoiser that generates a search's images on a CPU, in about a minute.

With a larger one, text embeddings alone decide on a CPU.
"""


class ChosenToken(CachedRecord):
    """The identifier token of one base model, and why it was chosen."""

    version: Literal[1] = 1
    token: str
    why: str
    """Why it was chosen; it reads on after the token and a comma."""
    decided_by: dict[str, str]
    """Everything that the choice depends on: base model, encoders and settings of the search."""

    @classmethod
    def of(cls, best: TokenCandidate, rare: int, decided_by: Mapping[str, str]) -> Self:
        """Choose the best candidate out of a number of rare words."""
        meaning = f"{best.noun_similarity:.2f}, where a noun means 1"
        why = f"found in this base: of {rare} rare words it means least ({meaning})"
        return cls(token=best.token, why=why, decided_by=dict(decided_by))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSearch:
    """The result of a token search in a base model."""

    tokens: tuple[TokenCandidate, ...]
    """The best candidates, the best first."""
    common_token: TokenCandidate
    """`sks`, for comparison."""
    rare_word_count: int
    """Number of words that were rare enough to be considered."""
    nouns: tuple[str, ...]
    """The nouns whose images were compared."""
    encoders: Mapping[str, str]
    """The encoders that measured the images, each described in one line."""


def choose_token(
    recipe: Recipe, family: Family, *, folder: Path | None = None, on_event: OnEvent = ignore
) -> tuple[Recipe, str]:
    """Fill in a token for each subject that has none; returns the recipe and the reason.

    A recipe that names all tokens is returned as it is, with an empty reason. The family must be
    the recipe's base model without an adapter. See `find_or_recall_token`. Of several subjects, the
    first gets the base's token, and each other a rare word by its text embedding.
    """
    missing = sum(token is None for token in recipe.subjects.tokens)
    if not missing:
        return recipe, ""
    chosen = find_or_recall_token(
        family,
        recipe.base,
        identity=recipe.selection.identity,
        clip=recipe.selection.clip,
        device=choose_device(recipe.device),
        folder=folder,
        on_event=on_event,
    )
    given = [token for token in recipe.subjects.tokens if token is not None]
    words = [word for word in [chosen.token] if not any(overlap(word, token) for token in given)]
    words += further_tokens(family, missing - len(words), taken=[*given, *words])
    new = iter(words)
    filled = with_tokens(recipe, [next(new) if token is None else token for token in recipe.subjects.tokens])
    return filled, chosen.why if words == [chosen.token] else "rare words that mean little to this base"


def further_tokens(family: Family, count: int, *, taken: Sequence[str]) -> list[str]:
    """Choose rare words whose text embeddings are least like a noun's, none of them `taken`.

    Where the vocabulary has too few, numbered `sks` are left.
    """
    try:
        words = TextTokenScorer(family).least_similar(count=CANDIDATES, seed=SEED) if count > 0 else []
    except UserError:
        words = []
    numbered = [f"{COMMON_TOKEN}{number}" for number in range(1, count + len(taken) + 1)]
    free = [word for word in [*words, *numbered] if not any(overlap(word, token) for token in taken)]
    return free[: max(0, count)]


def find_or_recall_token(
    family: Family,
    base: str,
    *,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "cpu",
    folder: Path | None = None,
    on_event: OnEvent = ignore,
) -> ChosenToken:
    """Return the cached token of a base model without an adapter, or search it.

    The first search generates 96 images of 12 steps; the embedded base needs none. A token that
    the base's own encoders have found is good for other encoders too.
    Event: `TokenSearchStarted`, before any image is generated.

    Args:
        family: The loaded base model.
        base: Name of the base model.
        identity: The identity encoder that a search uses; None is the base's.
        clip: The CLIP that a search uses; None is the base's.
        device: Device that the encoders are loaded on.
        folder: Folder of the cache; by default in the user's cache.
        on_event: Receives the events.

    Raises:
        UserError: images cannot be generated or written.
    """
    facts = search_facts(family, base, identity, clip)
    for known in (facts, search_facts(family, base)):
        cached = read_cached_token(known, folder)
        if cached is not None:
            return cached
    load = partial(load_encoders, base, identity, clip, device)
    return search_token(family, base, facts, load, device=device, folder=folder, on_event=on_event)


def search_token(
    family: Family,
    base: str,
    decided_by: Mapping[str, str],
    load: Callable[[], EncoderPair],
    *,
    device: str,
    folder: Path | None,
    on_event: OnEvent,
) -> ChosenToken:
    """Search a token, and cache it where generated images decided.

    Where images cannot be scored, or a large base would generate them on a CPU, text embeddings
    alone decide. Where the vocabulary has no rare word, the token is `sks`. Neither is cached.
    `decided_by` are the facts of the search, and `load` reads its encoders.
    """
    try:
        text_scorer = TextTokenScorer(family)
        words = text_scorer.least_similar(count=CANDIDATES, seed=SEED)
    except UserError as error:
        return ChosenToken(
            token=COMMON_TOKEN, why=f"the common choice of tutorials: {error}", decided_by=dict(decided_by)
        )
    if device == "cpu" and count_denoiser_weights(family) > CPU_WEIGHT_LIMIT:
        why_not = f"on a CPU that would take long; `mascot token --base {base}` does it once"
        return choose_by_text(text_scorer, words[0], why_not, decided_by)
    try:
        encoders = load()
    except UserError as error:
        return choose_by_text(text_scorer, words[0], str(error), decided_by)
    scorer = TokenScorer(Generator(family), encoders, token_samples(folder), seed=SEED)
    on_event(TokenSearchStarted(images=IMAGES_PER_WORD * (len(words) + len(scorer.reference_nouns))))
    chosen = ChosenToken.of(scorer.find_best(count=1)[0], len(text_scorer.rare_words), decided_by)
    chosen.write(cached_token_path(decided_by, folder))
    return chosen


def choose_by_text(text_scorer: TextTokenScorer, word: str, why_not: str, decided_by: Mapping[str, str]) -> ChosenToken:
    """Choose a word by text embedding alone, and explain why no images were generated."""
    similarity = max(0.0, text_scorer.score(word).value)
    why = (
        f"of {len(text_scorer.rare_words)} rare words its text embedding is least like a noun's "
        f"({similarity:.0%} of the way); no images were generated: {why_not}"
    )
    return ChosenToken(token=word, why=why, decided_by=dict(decided_by))


def search_facts(family: Family, base: str, identity: str | None = None, clip: str | None = None) -> dict[str, str]:
    """Collect all that decides the token: the base model's weights, the encoders and the settings.

    `identity` and `clip` name encoders other than the base's. The texts are cache keys;
    `starter/token.json` holds them too.
    """
    given = {kind: name for kind, name in (("identity", identity), ("clip", clip)) if name is not None}
    words = hashlib.sha256(" ".join([*NOUNS, "|", *sorted(SHORT_WORDS)]).encode()).hexdigest()[:16]
    sampled = SAMPLED_PER_CANDIDATE * CANDIDATES
    search = (
        f"{CANDIDATES} of {sampled} words of {MAXIMUM_LETTERS} letters, {IMAGES_PER_WORD} pictures, "
        f"{REFERENCE_NOUNS} nouns, seed {SEED}, {PROMPT}"
    )
    return {
        "base": family.identity,
        **default_encoder_names(base),
        **given,
        "search": search,
        "knobs": json.dumps(SEARCH_KNOBS.as_key(), sort_keys=True),
        "words": words,
    }


def read_cached_token(decided_by: Mapping[str, str], folder: Path | None = None) -> ChosenToken | None:
    """Read an earlier result from the package or the user's cache; None where there is none."""
    for path in (starter.token_file(), cached_token_path(decided_by, folder)):
        chosen = ChosenToken.recall(path)
        if chosen is not None and chosen.decided_by == decided_by:
            return chosen
    return None


def cached_token_path(decided_by: Mapping[str, str], folder: Path | None) -> Path:
    """Return the path of a result in the cache."""
    key = hashlib.sha256(json.dumps(dict(decided_by), sort_keys=True).encode()).hexdigest()[:20]
    return (folder or token_folder()) / f"{key}.json"


def token_folder() -> Path:
    """Return the default folder of results and their images."""
    return cache_folder() / "tokens"


def token_samples(folder: Path | None) -> SampleCache:
    """Open the cache of the searches' images."""
    return SampleCache(folder or token_folder())


def count_denoiser_weights(family: Family) -> int:
    """Count the weights of a base model's denoisers, all stages together."""
    return sum(parameter.numel() for stage in family.stages for parameter in stage.parts[stage.denoiser].parameters())


def open_token_scorer(
    base: str,
    *,
    identity: str | None = None,
    clip: str | None = None,
    seed: int = SEED,
    device: str = "cpu",
    folder: Path | None = None,
) -> TokenScorer:
    """Load a base model and its encoders; images are cached in `folder`, or in the user's cache.

    Raises:
        UserError: the base model or an encoder cannot be loaded, or the vocabulary has no noun to
            compare with.
    """
    describe(base)  # a base that is none is named first, encoders before weights are read
    encoders = load_encoders(base, identity, clip, device)
    generator = Generator(load_family(base, device=device, precision="fp32" if device == "cpu" else "bf16"))
    return TokenScorer(generator, encoders, token_samples(folder), seed=seed)


def search_rows(search: TokenSearch) -> list[tuple[str, str]]:
    """Format a search for a terminal: a row for each token and `sks`, then what was considered."""
    considered = (
        f"{search.rare_word_count} words of 1 to {MAXIMUM_LETTERS} letters that are rare in this base's vocabulary "
        "and no known words"
    )
    return [
        *((candidate.token, describe_candidate(candidate)) for candidate in search.tokens),
        (COMMON_TOKEN, f"{describe_candidate(search.common_token)} {NOTE_ON_SKS}"),
        ("considered", considered),
        ("compared with", f"images of {', '.join(search.nouns)}; 0 means nothing in particular, 1 as much as a noun"),
        *((f"encoder: {name}", line) for name, line in search.encoders.items()),
    ]


def describe_candidate(candidate: TokenCandidate) -> str:
    """Format all statistics of a candidate in one line."""
    tokenizations = "; ".join(tokenization.describe() for tokenization in candidate.tokenizations)
    return f"{candidate.noun_similarity:.2f}: {candidate.explanation} {tokenizations}."
