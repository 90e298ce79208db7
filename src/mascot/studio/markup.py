"""Pieces of HTML that several parts of the page share; every text of a user's is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from mascot.studio.words import Words


def text(value: object) -> str:
    """Escape a text for HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def button(label: str, post: str, *, kind: str = "", said: str = "", hint: str = "") -> str:
    """Write a button that posts to an address of this server; `said` is shown when it is done."""
    shown = f' data-say="{text(said)}"' if said else ""
    name = f' aria-label="{text(hint)}"' if hint else ""
    return f'<button type="button" class="act {kind}" data-post="{text(post)}"{shown}{name}>{text(label)}</button>'


def chip(label: str, kind: str = "", hint: str = "") -> str:
    """Write a small mark with a word in it."""
    said = f' title="{text(hint)}"' if hint else ""
    return f'<span class="chip {kind}"{said}>{text(label)}</span>'


def image_tag(source: str, alternative: str, *, kind: str = "", lazy: bool = True) -> str:
    """Write an image of this server."""
    loading = ' loading="lazy"' if lazy else ""
    return f'<img src="{text(source)}" alt="{text(alternative)}" class="{kind}"{loading} decoding="async">'


def part(*names: object) -> str:
    """Write the parts of an address, each quoted."""
    return "/studio/" + "/".join(quote(str(name), safe="") for name in names)


def empty(message: str) -> str:
    """Say that there is nothing yet, and what to do."""
    return f'<p class="empty">{text(message)}</p>'


def drawn_card(number: str, prompt: str, seed: int, settings: str, *, words: Words, scores: str = "") -> str:
    """Write a generated image with its settings, its scores, and what can be done with it.

    An image with scores stands in a comparison, where it is not generated again by itself.
    """
    source, label = part("image", number), text(words("draw.again", seed=seed))
    again = "" if scores else f'<button type="button" class="act" data-seed="{seed}">{label}</button>'
    return (
        f'<figure class="drawn">{image_tag(source, prompt, lazy=False)}<figcaption>'
        f'<span class="prompt">{text(prompt)}</span>{scores}<span class="row">{again}'
        f'<a class="act" href="{source}?download=1" download>{text(words("draw.download"))}</a></span>'
        f"<details><summary>{text(words('draw.settings'))}</summary><pre>{text(settings)}</pre></details>"
        "</figcaption></figure>"
    )


def definition(pairs: Iterable[tuple[str, str]]) -> str:
    """Write names and values."""
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Write a table whose cells are HTML already; its first column names the rows."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    said = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
