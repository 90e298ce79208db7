"""The tab Report: a run's report inside the page, and its remedies for the next run."""

from __future__ import annotations

from html import escape

import gradio as gr

from mascot.api.library.listing import read_diagnosis
from mascot.api.library.recipe_form import preset_fields, settings_text_of
from mascot.studio.markup import empty, part, text
from mascot.studio.tabs.answers import Room, choose, said_to_the_user
from mascot.studio.tabs.library import finished
from mascot.studio.tabs.teach import TeachFields


def build_report(room: Room, fields: TeachFields, tabs: gr.Tabs) -> tuple[gr.Dropdown, gr.HTML, gr.CheckboxGroup]:
    """Build the tab; returns the run's field, the report, and the remedies."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("report.lead")}</p>')
    run = gr.Dropdown(
        finished(room), value=None, label=words("compare.run"), elem_id="report-run", allow_custom_value=True
    )
    remedies = gr.CheckboxGroup([], label=words("report.remedies"), elem_id="report-remedies", visible=False)
    apply = gr.Button(words("report.apply"), elem_id="report-apply")
    page = gr.HTML(empty(words("report.empty")), elem_id="report-page")

    def show(name: str | None) -> tuple[str, gr.CheckboxGroup]:
        return report_frame(room, name), offer_remedies(room, name)

    def fill(name: str | None, chosen: list[str] | None) -> list[object]:
        with said_to_the_user():
            form, settings = settings_text_of(room.run(name or ""), chosen or [])
        numbers = preset_fields(form.base, form.method, "usual")
        given = {"steps": form.steps, "rate": form.learning_rate, "every": form.previews_every}
        numbers |= {name: float(value) for name, value in given.items() if value is not None}
        gr.Info(words("report.taken", name=escape(name or "")), duration=8, title="mascot")
        said = [form.class_noun, form.base, form.method, settings, "usual", *numbers.values(), form.seed or 0]
        return [*said, [form.base, form.method, "usual"], gr.Tabs(selected="teach")]

    run.change(show, run, [page, remedies], api_visibility="private", show_progress="hidden")
    filled = [fields.noun, fields.base, fields.method, fields.settings, fields.effort]
    filled += [fields.steps, fields.rate, fields.every, fields.seed, fields.filled_for, tabs]
    apply.click(fill, [run, remedies], filled, api_visibility="private")
    return run, page, remedies


def report_frame(room: Room, name: str | None) -> str:
    """Show a run's report in a frame that reaches nothing of the page."""
    if not name or name not in finished(room) or not room.run(name).report.is_file():
        return empty(room.words("report.empty"))
    source = part("runs", name, "report")
    title = text(room.words("report.of", name=name))
    return f'<iframe src="{source}" title="{title}" sandbox="allow-scripts" loading="lazy"></iframe>'


def offer_remedies(room: Room, name: str | None) -> gr.CheckboxGroup:
    """Offer the settings that a run's diagnosis proposes."""
    found = read_diagnosis(room.run(name)) if name and name in finished(room) else None
    choices = [
        (f"{finding.title}: {remedy.sentence}", remedy.setting)
        for finding in (found.findings if found else ())
        for remedy in finding.remedies
        if remedy.setting
    ]
    unique = list({setting: (label, setting) for label, setting in reversed(choices)}.values())[::-1]
    return gr.CheckboxGroup(choices=unique, value=[], visible=bool(unique))


def offer_report(room: Room, name: str | None) -> tuple[gr.Dropdown, str, gr.CheckboxGroup]:
    """Offer the runs that have a report now, and show the chosen one's."""
    names = finished(room)
    chosen = name if name in names else (names[0] if names else None)
    return choose(names, chosen), report_frame(room, chosen), offer_remedies(room, chosen)
