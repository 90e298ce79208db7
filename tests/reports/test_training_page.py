"""Laws of the training report: one safe, self-contained file that shows all it was given."""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import re
from base64 import b64decode
from collections import Counter
from dataclasses import fields, replace
from html.parser import HTMLParser
from importlib import import_module
from io import BytesIO
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from mascot.errors import UserError
from mascot.reports.html import LONGEST_SIDE, data_uri
from mascot.reports.loss_curve import PLOT, draw_curve, smooth
from mascot.reports.training_page import (
    ContextGroup,
    ContextRow,
    KnobCell,
    KnobGrid,
    PhotoEntry,
    Preview,
    Report,
    ReportFinding,
    ReportNote,
    digest,
    hero,
    render,
    snippet,
    write_report,
)

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert(1)</script>\" onerror='alert(2)' &amp; {{ 7 * 7 }}"


class Page(HTMLParser):
    """A parsed page; fails where a tag is closed that is not the innermost open one."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag; one with content stays open."""
        assert len(dict(attrs)) == len(attrs), f"<{tag}> repeats an attribute"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag that closes itself."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag, which must be this one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Record text, and the tag around it."""
        self.text.append(data)
        if self.open:
            self.inside[self.open[-1]] = self.inside.get(self.open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        """List the attributes of every such tag, in order."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


def plain(hue: int, side: int = 8) -> Image.Image:
    """Make an image of one color that no other hue gives."""
    return Image.new("RGB", (side, side), (hue, 255 - hue, 128))


def full(text: str = "words") -> Report:
    """Make a report with something in every part, and `text` in every string."""
    cells = tuple(
        KnobCell(guidance=g, unet_scale=u, text_scale=t, image=plain(100 + k))
        for k, (t, g, u) in enumerate(product((0.0, 1.0), (3.0, 7.5), (0.5, 0.8, 1.0)))
    )
    rows = tuple(
        ContextRow(prompt=f"{text} in {k}", images=(plain(60 + 2 * k), plain(61 + 2 * k)), base=(plain(80 + k),))
        for k in range(3)
    )
    return Report(
        title=f"title {text}",
        subject=f"subject {text}",
        base=f"base {text}",
        adapter=f"{text}.safetensors",
        photos=tuple(
            PhotoEntry(image=plain(k, 200), name=f"{k} {text}.jpg", caption=f"caption {text}") for k in range(3)
        ),
        notes=(
            ReportNote(severity="warning", message=f"message {text}", remedy=f"remedy {text}"),
            ReportNote(severity="note", message=text, remedy=text),
        ),
        health=f"health {text}",
        findings=(
            ReportFinding(
                severity="serious",
                title=f"failure mode {text}",
                message=f"measured {text}",
                remedies=((f"--set {text}", f"why {text}"), ("", text)),
                strips=((f"strip {text}", ((plain(110), f"shown {text}"), (plain(111), text))),),
            ),
        ),
        effective=((f"setting {text}", f"value {text}"),),
        losses=tuple((step, 1 / step) for step in range(1, 60)),
        preview_prompts=(f"{text} one", f"{text} two"),
        previews=tuple(Preview(step=step, images=(plain(30 + step), plain(40 + step))) for step in (0, 4, 8)),
        contexts=(ContextGroup(name=f"group {text}", rows=rows), ContextGroup(name="view", rows=rows[:1])),
        knobs=KnobGrid(prompt=f"knobs {text}", cells=cells),
        adapter_facts=((f"fact {text}", f"value {text}"),),
        recipe=f"# recipe {text}\nsteps = 800\n",
        commands=(f"mascot generate {text}", f"mascot train {text}"),
    )


BARE = Report(title="t", subject="s", base="b", adapter="a.safetensors")


def given_images(report: Report) -> list[Image.Image]:
    """List every image that must be on the page, as often as it must be there."""
    rows = [row for group in report.contexts for row in group.rows]
    return [
        *(image for _, image in hero(report.contexts)),
        *(image for finding in report.findings for _, images in finding.strips for image, _ in images),
        *(photo.image for photo in report.photos),
        *(image for preview in report.previews for image in preview.images),
        *(image for row in rows for image in (*row.images, *row.base)),
        *(cell.image for cell in (report.knobs.cells if report.knobs else ())),
    ]


def names_in(folder: Path) -> list[str]:
    """List the names in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def decoded(uri: str) -> Image.Image:
    """Decode the image in a data URI."""
    head, _, body = uri.partition(";base64,")
    image = Image.open(BytesIO(b64decode(body, validate=True)))
    image.load()
    assert head == f"data:image/{(image.format or '').lower()}"
    return image


def test_everything_shown_comes_from_inside_the_file() -> None:
    page = Page(render(full("https://example.org/x.png")))
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "base"}
        assert not attributes.keys() & {"srcset", "poster", "data", "action", "background"}
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    styles = page.inside["style"] + "".join(attributes.get("style", "") for _, attributes in page.tags)
    assert "url(" not in styles
    assert "@import" not in styles
    assert "//" not in page.inside["script"]


def test_the_policy_forbids_requests_and_allows_only_our_script() -> None:
    html = render(full())
    (policy,) = (
        meta["content"] for meta in Page(html).all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{digest(script)}'"


def test_every_string_is_shown_as_it_is_and_none_is_obeyed() -> None:
    harmless, evil = Page(render(full("words"))), Page(render(full(EVIL)))

    def tame(text: str) -> str:
        return text.replace(EVIL, "words").replace(json.dumps(EVIL)[1:-1], "words")

    # With the text replaced, tags and attributes are the same: none of it became markup.
    assert tame("".join(evil.text)) == "".join(harmless.text)
    assert [
        (tag, {name: tame(value) for name, value in attributes.items()}) for tag, attributes in evil.tags
    ] == harmless.tags
    assert "".join(evil.text).count("<script>alert(1)</script>") > 20


def test_each_string_of_a_report_reaches_the_page() -> None:
    page = Page(render(full()))
    text = "".join(page.text)
    parts = "title|subject|base|caption|message|remedy|setting|value|group|knobs|fact|# recipe"
    more = "health|failure mode|measured|--set|why|strip"
    for shown in f"{parts}|{more}".split("|"):
        assert f"{shown} words" in text
    assert "0 words.jpg" in text
    assert "words.safetensors" in text
    assert "mascot generate words\nmascot train words" in text


def test_every_image_is_inside_and_decodes_to_what_was_given() -> None:
    report = full()
    found = [decoded(attributes["src"]) for attributes in Page(render(report)).all("img")]
    given = given_images(report)
    assert len(found) == len(given)
    for shown, original in zip(found, given, strict=True):
        assert shown.size == original.size
        if original.width <= 128:
            assert shown.tobytes() == original.tobytes()


def test_every_image_has_words_for_those_who_do_not_see_it() -> None:
    alts = [attributes["alt"] for attributes in Page(render(full())).all("img")]
    assert all("words" in alt for alt in alts)
    assert "Step 0 (base model): words one" in alts
    assert "knobs words, guidance scale 7.5, UNet scale 0.8, text-encoder scale 1" in alts


def test_a_large_image_is_reduced_and_keeps_its_shape() -> None:
    image = decoded(data_uri(Image.new("RGB", (3 * LONGEST_SIDE, 2 * LONGEST_SIDE), "teal")))
    assert image.size == (LONGEST_SIDE, round(LONGEST_SIDE * 2 / 3))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("side", [16, 300])
def test_every_kind_of_image_can_be_shown(mode: str, side: int) -> None:
    assert decoded(data_uri(Image.new(mode, (side, side)))).size == (side, side)


@pytest.mark.parametrize("side", [64, 400])
def test_the_page_does_not_tell_where_a_photo_was_taken(side: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret Camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    file = BytesIO()
    Image.new("RGB", (side, side), "teal").save(file, "JPEG", exif=exif, comment=b"Secret Words")
    photo = Image.open(file)
    assert photo.getexif()
    image = decoded(data_uri(photo))
    assert not image.getexif()
    assert b"Secret" not in b64decode(data_uri(photo).partition(",")[2])


@pytest.mark.parametrize("side", [64, 400])
@pytest.mark.parametrize(("mode", "kept"), [("RGB", b"a profile"), ("RGBA", b"a profile"), ("CMYK", None)])
def test_a_color_profile_stays_with_the_colors_it_was_made_for(mode: str, kept: bytes | None, side: int) -> None:
    photo = Image.new(mode, (side, side))
    photo.info["icc_profile"] = b"a profile"
    assert decoded(data_uri(photo)).info.get("icc_profile") == kept


def test_empty_parts_leave_no_trace() -> None:
    page = Page(render(BARE))
    assert page.ids == ["adapter"]
    assert [link["href"] for link in page.all("a")] == ["#adapter"]
    assert not page.all("img")
    assert not page.all("svg")
    assert not page.all("table")
    assert "hero" not in {attributes.get("class") for _, attributes in page.tags}


PARTS = {
    "photos": {"photos"},
    "notes": {"photos"},
    "health": {"diagnosis"},
    "effective": {"settings"},
    "losses": {"loss"},
    "contexts": {"contexts"},
    "knobs": {"knobs"},
    "recipe": {"recipe"},
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_brings_its_own_section_and_no_other(part: str) -> None:
    assert set(Page(render(replace(BARE, **{part: getattr(full(), part)}))).ids) == {"adapter"} | PARTS[part]


def test_sections_stand_in_the_promised_order() -> None:
    page = Page(render(full()))
    promised = ["diagnosis", "photos", "settings", "loss", "previews", "contexts", "knobs", "adapter", "recipe"]
    assert page.ids == promised
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in promised]


def test_groups_rows_and_grids_without_images_leave_no_trace() -> None:
    nothing = ContextGroup(name="style", rows=(ContextRow(prompt="p", images=()),))
    report = replace(
        BARE, contexts=(nothing, ContextGroup(name="view", rows=())), knobs=KnobGrid(prompt="p", cells=()), previews=()
    )
    assert Page(render(report)).ids == ["adapter"]
    some = replace(
        BARE,
        contexts=(nothing, ContextGroup(name="view", rows=(ContextRow(prompt="q", images=(), base=(plain(1),)),))),
    )
    page = Page(render(some))
    assert page.inside["h3"].startswith("view")
    assert page.inside["h4"] == "q"


def test_knobs_are_laid_out_by_value_and_gaps_stay_gaps() -> None:
    cells = tuple(
        KnobCell(guidance=g, unet_scale=u, text_scale=t, image=plain(int(100 * t + 10 * u + g)))
        for g, u, t in [(9, 1, 1), (3, 1, 1), (3, 0, 1), (9, 1, 0)]
    )
    alts = [image["alt"] for image in Page(render(replace(BARE, knobs=KnobGrid(prompt="p", cells=cells)))).all("img")]
    assert [tuple(map(int, re.findall(r"\d+", alt))) for alt in alts] == [(9, 1, 0), (3, 0, 1), (3, 1, 1), (9, 1, 1)]


def test_the_strip_on_top_takes_the_first_of_each_row_in_turns() -> None:
    def group(name: str, count: int) -> ContextGroup:
        return ContextGroup(
            name=name, rows=tuple(ContextRow(prompt=f"{name}{k}", images=(plain(k), plain(99))) for k in range(count))
        )

    chosen = hero((group("a", 9), ContextGroup(name="empty", rows=()), group("b", 2)))
    assert [prompt for prompt, _ in chosen] == ["a0", "b0", "a1", "b1", "a2", "a3"]
    assert all(image.getpixel((0, 0)) != plain(99).getpixel((0, 0)) for _, image in chosen)


def test_the_snippet_loads_all_parts_of_a_half_base_in_one_dtype() -> None:
    """The starter is stored in float16, of which transformers and diffusers make two dtypes."""
    lines = snippet(replace(BARE, base="starter")).splitlines()
    head: dict[str, Any] = {}
    exec("\n".join(lines[: next(i for i, line in enumerate(lines) if "from_pretrained" in line) + 1]), head)  # noqa: S102
    assert {head["pipe"].unet.dtype, head["pipe"].text_encoder.dtype, head["pipe"].vae.dtype} == {torch.float32}


def test_the_snippet_finds_the_starter_by_its_module() -> None:
    imports = [
        node for node in ast.walk(ast.parse(snippet(replace(BARE, base="starter")))) if isinstance(node, ast.ImportFrom)
    ]
    [module] = [node for node in imports if node.module is not None and node.module.startswith("mascot")]
    [name] = [alias.name for alias in module.names]
    starter = import_module(f"{module.module}.{name}")
    assert starter.folder().is_dir()


@pytest.mark.parametrize("name", ["plain", 'with "quotes" and \\', "two\nlines", "snow ❄ {}", "\udcff.safetensors"])
def test_the_snippet_is_python_that_loads_these_files(name: str) -> None:
    written = snippet(replace(BARE, base=name, adapter=name)).encode(errors="backslashreplace")
    calls = [node for node in ast.walk(ast.parse(written)) if isinstance(node, ast.Call)]
    first = {
        node.func.attr: ast.literal_eval(node.args[0])
        for node in calls
        if isinstance(node.func, ast.Attribute) and node.args
    }
    assert first["from_pretrained"] == first["load_lora_weights"] == name


loss_values = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=60)


@given(loss_values, st.integers(0, 10**6), st.integers(1, 1000))
def test_every_loss_is_on_the_curve_and_inside_it(values: list[float], first: int, interval: int) -> None:
    curve = draw_curve([(first + interval * k, value) for k, value in enumerate(values)])
    assert curve is not None
    left, top, right, bottom = PLOT
    dots = [(float(x), float(y)) for x, y in re.findall(r"M(\S+) (\S+?)h0", curve.dots)]
    line = [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([^ML]+)", curve.line)]
    finite = [value for value in values if math.isfinite(value)]
    assert len(dots) == len(line) == len(finite)
    assert len(dots) + len(curve.not_finite) == len(values)
    for x, y in [*dots, *line]:
        assert left <= x <= right
        assert top <= y <= bottom
    # Higher losses never stand lower (y grows downwards).
    heights = [y for _, (_, y) in sorted(zip(finite, dots, strict=True), key=lambda pair: pair[0])]
    assert all(lower >= higher for lower, higher in pairwise(heights))
    for tick in curve.steps:
        assert left <= tick.at <= right
    for tick in curve.values:
        assert top <= tick.at <= bottom
    assert 1 <= len(curve.steps) <= 7
    assert 2 <= len(curve.values) <= 8


@pytest.mark.parametrize(
    "losses", [((1, 0.5),), ((0, math.nan),), ((5, math.inf), (6, -math.inf)), ((1, 0.2), (2, math.nan), (3, 0.1))]
)
def test_few_and_broken_losses_are_drawn_and_named(losses: tuple[tuple[int, float], ...]) -> None:
    page = Page(render(replace(BARE, losses=losses)))
    paths = Counter(attributes.get("class", "").split()[0] for attributes in page.all("path"))
    broken = sum(not math.isfinite(loss) for _, loss in losses)
    (dots,) = (attributes["d"] for attributes in page.all("path") if attributes["class"].startswith("dots"))
    assert dots.count("M") == len(losses) - broken
    assert paths["broken"] == broken
    assert (f"{broken} not finite" in "".join(page.text)) == bool(broken)
    assert not re.search(
        r"\b(nan|inf)\b", " ".join(value for _, attributes in page.tags for value in attributes.values())
    )


def test_no_losses_give_no_curve() -> None:
    assert draw_curve(()) is None


def test_ticks_say_where_they_stand() -> None:
    curve = draw_curve([(step, step / 1000) for step in range(100, 901)])
    assert curve is not None
    left, top, right, bottom = PLOT
    assert [tick.label for tick in curve.steps] == ["200", "400", "600", "800"]
    for tick in curve.steps:
        assert tick.at == pytest.approx(left + (right - left) * (int(tick.label) - 100) / 800, abs=0.06)
    low, high = float(curve.values[0].label), float(curve.values[-1].label)
    assert (low, high) == (0, 1)
    for tick in curve.values:
        assert tick.at == pytest.approx(bottom - (bottom - top) * (float(tick.label) - low) / (high - low), abs=0.06)


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(0, 10))
def test_smoothing_stays_between_the_values_it_smooths(values: list[float], reach: int) -> None:
    smoothed = smooth(values, reach)
    assert len(smoothed) == len(values)
    for k, value in enumerate(smoothed):
        near = values[max(k - reach, 0) : k + reach + 1]
        assert min(near) - 1e-9 <= value <= max(near) + 1e-9


def test_smoothing_takes_equally_from_both_sides() -> None:
    assert smooth([0, 0, 0, 6, 0, 0, 0], 1) == [0, 0, 2, 2, 2, 0, 0]


def test_a_written_report_is_the_rendered_page_alone_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    write_report(full(EVIL), path)
    assert path.read_text("utf-8") == render(full(EVIL))
    assert names_in(tmp_path) == ["report.html"]


def test_names_that_are_no_text_are_shown_by_their_bytes(tmp_path: Path) -> None:
    photo = PhotoEntry(image=plain(1), name=os.fsdecode(b"caf\xe9.jpg"), caption="")
    write_report(replace(BARE, photos=(photo,)), tmp_path / "report.html")
    assert "caf\\udce9.jpg" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_full_disk_leaves_the_older_report_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        "mascot.storage.atomic_write.os.fsync" if moment == "fsync" else "pathlib.Path.replace", full_disk
    )
    with pytest.raises(UserError, match="free some space"):
        write_report(full(), path)
    assert path.read_text() == "older"
    assert names_in(tmp_path) == ["report.html"]


def test_an_interrupt_leaves_the_older_report_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mascot.storage.atomic_write.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(full(), path)
    assert path.read_text() == "older"
    assert names_in(tmp_path) == ["report.html"]


def test_paths_that_cannot_be_written_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match="move the folder of that name away"):
        write_report(BARE, tmp_path / "report.html")
    with pytest.raises(UserError, match="shorter name"):
        write_report(BARE, tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="parents are folders"):
        write_report(BARE, tmp_path / "file" / "report.html")
    assert names_in(tmp_path) == ["file", "report.html"]


def test_a_preview_that_misses_a_prompt_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="step 4"):
        render(replace(BARE, preview_prompts=("a", "b"), previews=(Preview(step=4, images=(plain(1),)),)))


def test_a_full_report_names_every_field() -> None:
    """The sample in this file must grow with the report, or the laws would miss a new part."""
    assert all(getattr(full(), field.name) for field in fields(Report))
