"""Equations in TeX, as GitHub shows them, turned into MathML when the site is built.

Browsers draw MathML themselves: no script and no font is loaded for it.
"""

from __future__ import annotations

import re

from latex2mathml.converter import convert

BLOCK = re.compile(r"^\$\$\n(?P<tex>.+?)\n\$\$$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`(?P<tex>[^`\n]+)`\$")
CODE = re.compile(r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)$", re.MULTILINE | re.DOTALL)


def with_mathml(page: str) -> str:
    """Replace equations by MathML: blocks between lines of `$$`, and inline ones.

    Inline equations are written as GitHub reads them beside code, between dollar and backtick. Code
    blocks stay as they are.
    """
    parts: list[str] = []
    done = 0
    for code in CODE.finditer(page):
        parts += [_replaced(page[done : code.start()]), code[0]]
        done = code.end()
    return "".join([*parts, _replaced(page[done:])])


def _replaced(text: str) -> str:
    text = BLOCK.sub(lambda found: f'<div class="equation">{_mathml(found["tex"], display="block")}</div>', text)
    return INLINE.sub(lambda found: _mathml(found["tex"], display="inline"), text)


def _mathml(tex: str, *, display: str) -> str:
    """Convert one equation.

    A line that begins with `math` would be read as a block, so inline ones stand in a `span`.
    """
    made = convert(tex.strip(), display=display).replace("\n", "")
    return made if display == "block" else f"<span>{made}</span>"
