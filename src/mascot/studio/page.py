"""The page in one language: its head, its tabs, and what is filled when a tab is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import gradio as gr

from mascot.studio.markup import text
from mascot.studio.tabs.answers import Room
from mascot.studio.tabs.compare import build_compare, offer_pair
from mascot.studio.tabs.draw import build_draw, offer_adapters
from mascot.studio.tabs.library import build_library, offer_finished
from mascot.studio.tabs.photos import REFRESH, build_photos
from mascot.studio.tabs.report import build_report, offer_report
from mascot.studio.tabs.teach import build_teach
from mascot.studio.words import LANGUAGES

HERE: Final = Path(__file__).parent
CLEANING: Final = 3600
"""Seconds after which an upload that nothing kept is deleted."""
SCRIPT_WORDS: Final = "script"
"""The part of the table that the page's script speaks."""


def build_page(room: Room) -> gr.Blocks:
    """Build the page."""
    words = room.words
    with gr.Blocks(
        title="mascot studio", analytics_enabled=False, fill_width=True, delete_cache=(CLEANING, CLEANING)
    ) as page:
        gr.HTML(header(room))
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
            with gr.Tab(words("tab.photos"), id="photos", elem_id="tab-photos"):
                build_photos(room)
            with gr.Tab(words("tab.teach"), id="teach", elem_id="tab-teach"):
                fields = build_teach(room)
            with gr.Tab(words("tab.draw"), id="draw", elem_id="tab-draw") as draw:
                drawn = build_draw(room)
            with gr.Tab(words("tab.compare"), id="compare", elem_id="tab-compare") as compare:
                compared = build_compare(room)
            with gr.Tab(words("tab.library"), id="library", elem_id="tab-library") as library:
                published = build_library(room)
            with gr.Tab(words("tab.report"), id="report", elem_id="tab-report") as report:
                reported = build_report(room, fields, tabs)
        fill_on_opening(room, (draw, drawn.adapters), (compare, compared), (report, reported))
        library.select(
            partial(offer_finished, room),
            published,
            published,
            api_visibility="private",
            show_progress="hidden",
        )
        page.load(None, None, None, js=REFRESH, api_visibility="private")
    return page


def fill_on_opening(
    room: Room,
    draw: tuple[gr.Tab, gr.Dropdown],
    compare: tuple[gr.Tab, list[gr.Dropdown]],
    report: tuple[gr.Tab, tuple[gr.Dropdown, gr.HTML, gr.CheckboxGroup]],
) -> None:
    """Offer the runs that there are now whenever a tab is opened."""

    def adapters(names: list[str] | None, request: gr.Request) -> gr.Dropdown:
        return offer_adapters(room, names, request)

    def pair(run: str | None, left: str | None, right: str | None, request: gr.Request) -> list[gr.Dropdown]:
        return offer_pair(room, (run, left, right), request)

    def runs(name: str | None) -> tuple[gr.Dropdown, str, gr.CheckboxGroup]:
        return offer_report(room, name)

    draw[0].select(adapters, draw[1], draw[1], api_visibility="private", show_progress="hidden")
    compare[0].select(pair, compare[1], compare[1], api_visibility="private", show_progress="hidden")
    report[0].select(runs, report[1][0], list(report[1]), api_visibility="private", show_progress="hidden")


def header(room: Room) -> str:
    """Write the page's head: its name, and the way to the other language."""
    others = "".join(
        f'<a href="{address_of(code)}" hreflang="{code}" lang="{code}">{text(name)}</a>'
        for code, name in LANGUAGES.items()
        if code != room.words.language
    )
    return (
        f'<header class="top"><span class="mark" aria-hidden="true"></span><h1>mascot studio</h1>'
        f"<p>{text(room.words('page.summary'))}</p><nav>{others}</nav></header>"
    )


def address_of(language: str) -> str:
    """Return the address of the page in a language."""
    return "/" if language == next(iter(LANGUAGES)) else f"/{language}/"


def head_of(room: Room) -> str:
    """Return what stands in the document's head: the script, and the words that it speaks."""
    own = {key.partition(".")[2]: said for key, said in room.words.table.items() if key.startswith(f"{SCRIPT_WORDS}.")}
    spoken = json.dumps({"language": room.words.language, **own}, ensure_ascii=False).replace("<", "\\u003c")
    return (
        f'<script type="application/json" id="studio-words">{spoken}</script>'
        '<link rel="icon" href="/studio/page/favicon.svg"><script src="/studio/page/studio.js" defer></script>'
    )


WARM: Final = gr.themes.Color(
    "#fdf4ee",
    "#fae4d5",
    "#f4c6a8",
    "#eba373",
    "#dd7c42",
    "#c8622a",
    "#b4501c",
    "#963f14",
    "#78330f",
    "#5c280d",
    "#351606",
)
"""The accent in its shades, the palest first."""


def theme() -> gr.themes.Base:
    """Return the theme: the system's fonts, one warm color, quiet surfaces."""
    return gr.themes.Base(
        primary_hue=WARM,
        neutral_hue=gr.themes.colors.stone,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
    ).set(**colors())


def colors() -> Mapping[str, str]:
    """Return the theme's own values."""
    return {
        "body_background_fill": "#faf8f5",
        "body_background_fill_dark": "#171412",
        "block_background_fill": "#ffffff",
        "block_background_fill_dark": "#211d1a",
        "block_border_color": "#e7e1d9",
        "block_border_color_dark": "#3a332d",
        "block_shadow": "none",
        "block_label_text_weight": "500",
        "block_title_text_weight": "500",
        "button_primary_background_fill": "#b4501c",
        "button_primary_background_fill_hover": "#9a4214",
        "button_primary_background_fill_dark": "#c25a24",
        "button_primary_background_fill_hover_dark": "#d2662d",
        "button_primary_text_color": "#ffffff",
        "button_large_text_weight": "500",
        "input_background_fill": "#ffffff",
        "input_background_fill_dark": "#1a1715",
        "input_border_width": "1px",
        "input_border_width_dark": "1px",
        "input_border_color": "#ddd5cb",
        "input_border_color_dark": "#463d36",
        "input_radius": "8px",
        "block_radius": "12px",
        "button_secondary_background_fill": "#ffffff",
        "button_secondary_background_fill_hover": "#f3efe9",
        "button_secondary_background_fill_dark": "#211d1a",
        "button_secondary_background_fill_hover_dark": "#2a2521",
        "button_secondary_border_color": "#ddd5cb",
        "button_secondary_border_color_dark": "#463d36",
        "button_border_width": "1px",
        "button_large_text_size": "15px",
        "button_large_radius": "10px",
    }
