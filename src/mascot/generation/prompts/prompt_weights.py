r"""The grammar of prompts as users type them: weights in brackets, escapes, and BREAK.

| typed | read |
|---|---|
| `(red:1.3)` | red with a weight of 1.3 |
| `(red)`, `((red))` | red with 1.1, with 1.21: weights within weights multiply |
| `[red]` | red with 1 / 1.1 |
| `\(`, `\)`, `\[`, `\]`, `\\` | the letter itself |
| `BREAK` | the text after it begins a new chunk |

A bracket without its partner is a letter. This is the grammar of stable-diffusion-webui
(AUTOMATIC1111, `modules/prompt_parser.py`), where an open bracket without a partner counts to the
end of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from mascot.errors import UserError, shorten

ROUND, SQUARE = 1.1, 1 / 1.1
"""The weights of a pair of round and of square brackets."""
LEAST, MOST = 0.0, 3.0
"""The weights that a phrase may have. At 0 its states are nought, though others still know of it.

Beyond 3 images fall apart, and such a number is nearly always a slip: `(red:13)`, `(at 3:30)`.
"""
DIGITS = 6
"""Decimals of a weight, so that `[(red)]` has exactly 1."""

_SYNTAX = re.compile(r"\\[\\()\[\]]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[()\[\]]")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_EDITING = re.compile(r"(?<!\\)\||:\s*[\d.]+\s*$")
_EXTRA_NETWORK = re.compile(r"<\w+:[^<>]+>")
_ESCAPED = re.compile(r"[\\()\[\]]")
_PARTNER = {")": "(", "]": "["}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a prompt that has one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPrompt:
    """A prompt as it is read: phrases with their weights."""

    parts: tuple[tuple[Phrase, ...], ...]
    """The phrases of what stands before, between and after each BREAK."""

    @property
    def text(self) -> str:
        """The prompt without brackets, escapes and BREAK."""
        return " ".join(filter(None, ("".join(phrase.text for phrase in part) for part in self.parts)))

    @property
    def weighted(self) -> tuple[Phrase, ...]:
        """The phrases whose weight is not 1."""
        return tuple(phrase for part in self.parts for phrase in part if phrase.weight != 1)


def as_letters(prompt: str) -> WeightedPrompt:
    """Read a prompt as captions are read in training, where brackets are letters."""
    return WeightedPrompt(parts=((Phrase(prompt),),))


@lru_cache(maxsize=1024)
def parse_prompt(prompt: str) -> WeightedPrompt:
    """Parse a prompt; one without brackets, escapes and BREAK is one phrase of weight 1.

    Raises:
        UserError: a weight is not between 0 and 3; or the prompt has a syntax of other tools that
            mascot cannot draw.
    """
    if found := _EXTRA_NETWORK.search(prompt):
        raise UserError(
            f"{shorten(found.group())!r} stands in a prompt, and prompts load no adapters; leave it out, and name the "
            "adapter before the prompt, as in owl.safetensors:0.8."
        )
    parts: list[list[_Piece]] = [[]]
    for piece in _weighted_pieces(prompt):
        first, *others = _BREAK.split(piece.text) if piece.is_text else [piece.text]
        parts[-1].append(_Piece(first, piece.weight))
        parts += [[_Piece(text, piece.weight)] for text in others]
    read = WeightedPrompt(parts=tuple(tuple(_merge(part)) for part in parts))
    for phrase in read.weighted:
        if not LEAST <= phrase.weight <= MOST:
            raise UserError(
                f"the prompt {shorten(prompt)!r} weighs {shorten(phrase.text)!r} by {phrase.weight:g}; give a weight "
                rf"from {LEAST:g} to {MOST:g}, or write \( and \) where brackets are letters."
            )
    return read


def has_syntax(text: str) -> bool:
    """Tell whether a text holds anything that is no letter in a prompt, or may be none."""
    return any(pattern.search(text) for pattern in (_SYNTAX, _BREAK, _EXTRA_NETWORK))


def escape(text: str) -> str:
    """Write a text so that `parse_prompt` reads its brackets as letters."""
    return _ESCAPED.sub(lambda match: f"\\{match.group()}", text)


@dataclass(slots=True)
class _Piece:
    """A piece of a prompt while it is parsed."""

    text: str
    weight: float = 1.0
    is_text: bool = False
    """Whether it was typed outside escapes and brackets, so that BREAK is a word of its own."""


def _weighted_pieces(prompt: str) -> list[_Piece]:
    """Split a prompt at brackets and escapes, and give each piece its weight.

    Round and square brackets are matched each by themselves, as in A1111.

    Raises:
        UserError: square brackets edit the prompt.
    """
    pieces: list[_Piece] = []
    opened: dict[str, list[tuple[int, int]]] = {"(": [], "[": []}
    end = 0
    for match in _SYNTAX.finditer(prompt):
        pieces.append(_Piece(prompt[end : match.start()], is_text=True))
        sign, end = match.group(), match.end()
        opener = _PARTNER.get(sign[-1], "") if not sign.startswith("\\") else ""
        if opener and opened[opener]:
            index, start = opened[opener].pop()
            if opener == "[":
                _refuse_editing(prompt[start:end])
            pieces[index].text = ""
            factor = SQUARE if opener == "[" else float(match.group(1) or ROUND)
            for piece in pieces[index + 1 :]:
                piece.weight *= factor
            continue
        if sign in opened:
            opened[sign].append((len(pieces), match.start()))
        pieces.append(_Piece(sign.removeprefix("\\") if len(sign) == 2 and sign[0] == "\\" else sign))
    return [*pieces, _Piece(prompt[end:], is_text=True)]


def _refuse_editing(bracket: str) -> None:
    """Refuse `[cat:dog:0.5]` and `[cat|dog]`, which in A1111 change a prompt between steps.

    Raises:
        UserError: the bracket is one of them.
    """
    if _EDITING.search(bracket[1:-1]):
        raise UserError(
            f"{shorten(bracket)!r} would change the prompt between steps, which mascot does not do; write one of its "
            r"words, or write \[ and \] where brackets are letters."
        )


def _merge(pieces: Iterable[_Piece]) -> Iterable[Phrase]:
    """Join pieces of one weight that stand side by side, and leave out the empty ones."""
    filled = (piece for piece in pieces if piece.text)
    for weight, same in groupby(filled, key=lambda piece: round(piece.weight, DIGITS)):
        yield Phrase("".join(piece.text for piece in same), weight)
