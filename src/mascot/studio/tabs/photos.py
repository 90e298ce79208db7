"""The tab Photos: files come in here; the cards with captions, crops and masks are a live part."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from mascot.api.library.photo_desk import LARGEST_FILE
from mascot.errors import UserError
from mascot.storage.untrusted_files import read_text
from mascot.studio.sessions import Session
from mascot.studio.tabs.answers import Room, message

CAPTION = ".txt"
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
        faults = add_files(room.session(request), paths or [])
        if faults:
            raise message(" ".join(faults))

    for component in (files, folder):
        component.upload(take, component, None, api_visibility="private", show_progress="minimal").then(
            lambda: None, None, files, js=None, api_visibility="private"
        ).then(None, None, None, js=REFRESH, api_visibility="private")


def add_files(session: Session, paths: list[str]) -> list[str]:
    """Add uploaded files to a session's photos, and delete them; returns what was refused.

    A text of a photo's name is its caption; hidden files of a folder are left out.
    """
    files = [Path(path) for path in paths]
    captions = {path.stem: path for path in files if path.suffix == CAPTION}
    faults: list[str] = []
    for path in (one for one in files if one.suffix != CAPTION and not one.name.startswith(".")):
        try:
            photo = session.desk.add(path, path.name)
            if path.stem in captions:
                session.desk.caption(photo.number, read_text(captions[path.stem]))
        except UserError as error:
            faults.append(str(error))
    for path in files:
        path.unlink(missing_ok=True)
    return faults


def size_limit() -> int:
    """Return the most bytes of one upload; adapters of large bases are larger than photos."""
    return max(LARGEST_FILE, 2**31)
