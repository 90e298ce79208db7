"""TODO api.find_token."""

from __future__ import annotations

from pathlib import Path

from mascot.evaluation.selection.token_choice import SEED, ChosenToken, TokenSearch, facts_of, open_examiner, place_of
from mascot.evaluation.selection.token_scoring import CANDIDATES
from mascot.progress import OnEvent, ignore
from mascot.protocols import COMMON_TOKEN


def find_token(
    base: str, *, count: int = 5, candidates: int = CANDIDATES, seed: int = SEED, device: str = "cpu", folder: Path | None = None,
    on_event: OnEvent = ignore,
) -> TokenSearch:  # fmt: skip
    """Load a base and its judges, find tokens, and look at `sks` too; pictures are kept in `folder`, by default in the user's cache.

    What the usual search finds is remembered for `usual_name`.

    Raises:
        UserError: the base or a judge cannot be loaded, its vocabulary has no suitable word, or pictures cannot be drawn or kept.
    """
    examiner = open_examiner(base, seed=seed, device=device, folder=folder)
    tokens = examiner.find(count=count, candidates=candidates, on_event=on_event)
    rare = len(examiner.reader.rare)
    if (candidates, seed) == (CANDIDATES, SEED):
        decided_by = facts_of(examiner.generator.family, base)
        ChosenToken.of(tokens[0], rare, decided_by).write(place_of(decided_by, folder))
    return TokenSearch(
        tokens=tuple(tokens),
        folklore=examiner.examine([COMMON_TOKEN], on_event)[0],
        rare=rare,
        nouns=examiner.references,
        encoders=examiner.encoders.describe(),
    )
