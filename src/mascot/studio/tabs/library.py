"""The tab Library: the runs are a live part; publishing is a form."""

from __future__ import annotations

from functools import partial

import gradio as gr

from mascot.api.adapters.publish import publish
from mascot.studio.markup import text
from mascot.studio.tabs.answers import Room, choose, said_to_the_user

LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "openrail++", "creativeml-openrail-m")
"""Licenses that the form offers; others may be written."""


def build_library(room: Room) -> gr.Dropdown:
    """Build the tab; returns the field of the run that is published."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("library.lead")}</p>')
    gr.HTML(f'<div data-live="library" aria-label="{words("library.title")}"></div>')
    with gr.Accordion(words("publish.title"), open=False) as form:
        gr.HTML(f"<p>{words('publish.lead')}</p>")
        with gr.Row():
            run = gr.Dropdown(
                finished(room), value=None, label=words("compare.run"), elem_id="publish-run", allow_custom_value=True
            )
            repo = gr.Textbox(
                label=words("publish.repo"), placeholder="name/owl", max_length=200, elem_id="publish-repo"
            )
            license_ = gr.Dropdown(list(LICENSES), value=None, label=words("publish.license"), allow_custom_value=True)
        with gr.Row():
            private = gr.Checkbox(label=words("publish.private"))
            dry = gr.Checkbox(value=True, label=words("publish.dry"), elem_id="publish-dry")
            go = gr.Button(words("publish.go"), elem_id="publish-go")
        answer = gr.HTML()

    def send(name: str | None, to: str, terms: str | None, hidden: bool, only_files: bool) -> str:  # noqa: FBT001
        with said_to_the_user():
            done = publish(
                room.run(name or ""),
                to.strip(),
                license=terms or None,
                private=hidden and not only_files,
                dry_run=only_files,
            )
            files = "".join(f"<li>{text(file)}</li>" for file in done.files)
            return f'<p class="said good">{text(done.url or words("publish.written"))}</p><ul>{files}</ul>'

    form.expand(partial(offer_finished, room), run, run, api_visibility="private", show_progress="hidden")
    go.click(send, [run, repo, license_, private, dry], answer, api_visibility="private", concurrency_limit=1)
    return run


def offer_finished(room: Room, name: str | None) -> gr.Dropdown:
    """Offer the finished runs that there are now."""
    return choose(finished(room), name)


def finished(room: Room) -> list[str]:
    """List the finished runs."""
    return [one.name for one in room.shop.runs() if one.finished]
