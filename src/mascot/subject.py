"""What is taught, in words."""

from __future__ import annotations

from dataclasses import dataclass

from mascot.errors import UserError

FOLKLORE = "sks"
"""What most tutorials call their subject, and what ours is called while nobody has named it and no base has been asked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is taught: its token, and the noun of its class where one is known. Raises UserError where either is blank."""

    token: str
    class_noun: str | None = None

    def __post_init__(self) -> None:
        """Refuse blanks."""
        if not self.token.strip():
            raise UserError("The token is empty; give a rare word such as sks.")
        if self.class_noun is not None and not self.class_noun.strip():
            raise UserError("The class noun is empty; give a noun such as dog, or leave it out.")

    @property
    def words(self) -> str:
        """Token and class noun (`sks dog`), or the token alone."""
        return self.token if self.class_noun is None else f"{self.token} {self.class_noun}"
