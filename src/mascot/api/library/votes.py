"""Votes between two runs, kept one line each, and summed with an interval."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mascot.errors import UserError
from mascot.storage.atomic_write import atomic_write
from mascot.storage.untrusted_files import read_json_lines

Choice = Literal["left", "right", "alike"]
MOST: Final = 100_000
"""Most votes that a library keeps."""
NORMAL: Final = 1.959964
"""Standard deviations of a 95 % interval."""


class Vote(BaseModel):
    """One person's vote on two images of one prompt and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: str
    """Name of the run on the left."""
    right: str
    prompt: str
    seed: int
    choice: Choice
    at: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteSum:
    """The votes between two runs, whichever of them stood on the left."""

    one: str
    other: str
    wins: int
    """Votes for `one`."""
    losses: int
    alike: int
    low: float
    """Lower end of the interval of the share of votes for `one` among those that decide."""
    high: float

    @property
    def share(self) -> float | None:
        """Share of the votes for `one` among those that decide; None without any."""
        decided = self.wins + self.losses
        return self.wins / decided if decided else None


class VoteBox:
    """The file of a library's votes; methods may be called by threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()

    def cast(self, left: str, right: str, choice: Choice, *, prompt: str, seed: int) -> Vote:
        """Keep a vote.

        Raises:
            UserError: it is between a run and itself, or there are too many votes.
        """
        if left == right:
            raise UserError("Both sides are the same run; choose two.")
        vote = Vote(left=left, right=right, prompt=prompt[:1000], seed=seed, choice=choice, at=time.time())
        with self.lock:
            votes = [*self.read(), vote]
            if len(votes) > MOST:
                raise UserError(f"There are {MOST} votes already; move {self.path.name} away.")
            with atomic_write(self.path) as temporary:
                temporary.write_text("".join(one.model_dump_json() + "\n" for one in votes), encoding="utf-8")
        return vote

    def read(self) -> list[Vote]:
        """Read all votes; damaged lines are left out."""
        if not self.path.exists():
            return []
        found: list[Vote] = []
        for line in read_json_lines(self.path):
            try:
                found.append(Vote.model_validate_json(json.dumps(line.value)))
            except ValidationError:
                continue
        return found

    def between(self, one: str, other: str) -> VoteSum:
        """Sum the votes between two runs."""
        return sum_votes(self.read(), one, other)


def sum_votes(votes: Sequence[Vote], one: str, other: str) -> VoteSum:
    """Sum the votes between two runs, with Wilson's 95 % interval of the share (Wilson 1927)."""
    own = [vote for vote in votes if {vote.left, vote.right} == {one, other}]
    decided = [vote.left if vote.choice == "left" else vote.right for vote in own if vote.choice != "alike"]
    wins = decided.count(one)
    low, high = wilson(wins, len(decided))
    return VoteSum(
        one=one, other=other, wins=wins, losses=len(decided) - wins, alike=len(own) - len(decided), low=low, high=high
    )


def wilson(wins: int, count: int) -> tuple[float, float]:
    """Return Wilson's score interval of a share, at 95 %; 0 to 1 without any vote."""
    if not count:
        return 0.0, 1.0
    share, square = wins / count, NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = NORMAL / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)
