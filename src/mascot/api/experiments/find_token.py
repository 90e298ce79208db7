"""`find_token`: search a base model for rare words that can serve as identifier token."""

from __future__ import annotations

from pathlib import Path

from mascot.data.prompt_templates import COMMON_TOKEN
from mascot.evaluation.selection.token_choice import (
    SEED,
    ChosenToken,
    TokenSearch,
    cached_token_path,
    open_token_scorer,
    search_facts,
)
from mascot.evaluation.selection.token_scoring import CANDIDATES
from mascot.progress import OnEvent, ignore


def find_token(
    base: str,
    *,
    count: int = 5,
    candidates: int = CANDIDATES,
    seed: int = SEED,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "cpu",
    folder: Path | None = None,
    on_event: OnEvent = ignore,
) -> TokenSearch:
    """Rank a base's rare words by how little they mean to it, and measure `sks` too.

    `candidates` words are compared by images, which are cached in `folder`, by default in the
    user's cache. With default `candidates` and `seed` the best word is recorded, and
    `choose_token` uses it for recipes that name the same encoders. `identity` and `clip` name
    encoders (see `load_encoders`).
    Events: those of the scorer (see `TokenScorer`).

    Raises:
        UserError: the base or an encoder cannot be loaded, the vocabulary has no suitable word, or
            images cannot be generated or written.
    """
    scorer = open_token_scorer(base, identity=identity, clip=clip, seed=seed, device=device, folder=folder)
    tokens = scorer.find_best(count=count, candidates=candidates, on_event=on_event)
    rare = len(scorer.text_scorer.rare_words)
    if (candidates, seed) == (CANDIDATES, SEED):
        decided_by = search_facts(scorer.generator.family, base, identity, clip)
        ChosenToken.of(tokens[0], rare, decided_by).write(cached_token_path(decided_by, folder))
    return TokenSearch(
        tokens=tuple(tokens),
        common_token=scorer.score([COMMON_TOKEN], on_event)[0],
        rare_word_count=rare,
        nouns=scorer.reference_nouns,
        encoders=scorer.encoders.describe(),
    )
