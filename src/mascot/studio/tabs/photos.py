"""The tab Photos: files come in here; the cards with captions, crops and masks are a live part."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from mascot.api.library.photo_desk import LARGEST_FILE, add_files
from mascot.studio.tabs.answers import Room

REFRESH = "() => window.studio.refresh()"
"""Asks the page to load its live parts now."""


def build_photos(room: Room) -> None:
    """Build the tab."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("photos.lead")}</p>')
    with gr.Row(equal_height=True, elem_classes="drop-row"):
        files = gr.File(
            label=words("photos.drop"), file_count="multiple", type="filepath", elem_id="photo-files", height=150
        )
        folder = gr.UploadButton(
            words("photos.folder"), file_count="directory", type="filepath", scale=0, elem_id="photo-folder"
        )
    gr.HTML(f'<div data-live="photos" aria-label="{words("photos.title")}"></div>')

    def take(paths: list[str] | None, request: gr.Request) -> None:
        faults = add_files(room.session(request).desk, [Path(path) for path in paths or ()])
        if faults:
            gr.Warning(escape(" ".join(faults)), duration=12, title="mascot")

    for component in (files, folder):
        component.upload(take, component, None, api_visibility="private", show_progress="minimal").then(
            lambda: None, None, files, js=None, api_visibility="private"
        ).then(None, None, None, js=REFRESH, api_visibility="private")


def size_limit() -> int:
    """Return the most bytes of one upload; adapters of large bases are larger than photos."""
    return max(LARGEST_FILE, 2**31)
