"""Laws of pages of tables and images: text is escaped, images are inside and not too large."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from mascot.reports.page import (
    THUMBNAIL_SIDE,
    ImageStrip,
    ImageTile,
    Page,
    PageRow,
    PageSection,
    read_thumbnail,
    render,
    thumbnail,
    write_page,
)
from mascot.reports.table import NO_VALUE, Table, format_score

IMAGE = Image.new("RGB", (8, 8), (1, 2, 3))


def full(text: str) -> Page:
    """Make a page with something in every part, and `text` in every string."""
    table = Table(title=f"table {text}", head=("a", text), rows=((text, "1"),), notes=(f"note {text}",))
    tile = ImageTile(image=IMAGE, alt=f"alt {text}", caption=f"caption {text}")
    strips = (ImageStrip(name=text, tiles=(tile,)), ImageStrip(name="", tiles=(tile,), full_width=True))
    row = PageRow(title=f"row {text}", about=f"about {text}", strips=strips, link="run/scores.html")
    section = PageSection(id="one", title=text, lead=f"lead {text}", tables=(table,), rows=(row,))
    return Page(title=f"title {text}", about=text, sections=(section,))


def test_every_string_of_a_page_is_shown_and_none_is_obeyed() -> None:
    html = render(full("<script>alert(1)</script>"))
    assert "<script>" not in html
    for name in ("title", "table", "note", "alt", "caption", "row", "about", "lead"):
        assert f"{name} &lt;script&gt;" in html
    assert 'href="run/scores.html"' in html
    assert html.count('class="full"') == 1


def test_every_image_of_a_page_is_inside_it(tmp_path: Path) -> None:
    write_page(full("words"), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text("utf-8")
    images = [part.partition('"')[0] for part in html.split("data:image/png;base64,")[1:]]
    assert [Image.open(BytesIO(b64decode(image))).tobytes() for image in images] == [IMAGE.tobytes()] * 2


@pytest.mark.parametrize("size", [(8, 8), (3 * THUMBNAIL_SIDE, THUMBNAIL_SIDE)])
def test_a_thumbnail_is_never_larger_than_pages_show(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    image.save(tmp_path / "image.png")
    assert max(thumbnail(image).size) == min(max(size), THUMBNAIL_SIDE)
    assert read_thumbnail(tmp_path / "image.png").size == thumbnail(image).size
    assert image.size == size


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (-0.0001, "0.000"), (-1.0, "-1.000"), (None, NO_VALUE)]
)
def test_a_score_has_three_decimals_and_no_negative_zero(value: float | None, text: str) -> None:
    assert format_score(value) == text
