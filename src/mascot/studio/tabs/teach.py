"""The tab Teach: what is taught and how; the jobs with their curves are a live part."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import gradio as gr

from mascot.api.doctor import doctor
from mascot.api.library.photo_desk import with_own_names
from mascot.api.library.recipe_form import Effort, RecipeForm, find_bases, methods, nouns, preset_fields, recipe_from
from mascot.errors import UserError
from mascot.evaluation.diagnosis.remedies import OUTSIDE_MASK_WEIGHT
from mascot.methods.registry import DEFAULT
from mascot.recipe.recipe import Recipe
from mascot.studio.markup import definition, text
from mascot.studio.sessions import Session
from mascot.studio.tabs.answers import DEVICE, Room, said_to_the_user
from mascot.studio.tabs.photos import REFRESH


@dataclass(frozen=True, slots=True)
class TeachFields:
    """The fields of the tab, in the order in which events pass them."""

    noun: gr.Dropdown
    base: gr.Dropdown
    method: gr.Dropdown
    effort: gr.Radio
    steps: gr.Number
    rate: gr.Number
    seed: gr.Number
    every: gr.Number
    settings: gr.Code
    name: gr.Textbox
    filled_for: gr.State
    """Base, method and effort whose preset the numbers hold."""

    @property
    def all(self) -> list[gr.components.Component]:
        """The fields that somebody fills, as a list."""
        return [getattr(self, name) for name in self.__dataclass_fields__ if name != "filled_for"]


def build_teach(room: Room) -> TeachFields:
    """Build the tab; returns its fields, which the tab Report fills too."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("teach.lead")}</p>')
    with gr.Row(elem_classes="sides"):
        with gr.Column(scale=5, min_width=300):
            fields = build_fields(room)
            with gr.Row():
                check = gr.Button(words("teach.check"), elem_id="teach-check")
                start = gr.Button(words("teach.start"), variant="primary", elem_id="teach-start")
            answer = gr.HTML(elem_id="teach-answer")
        with gr.Column(scale=6, min_width=300):
            gr.HTML(f'<h2>{words("jobs.title")}</h2><div data-live="jobs" aria-live="off"></div>')

    def look(request: gr.Request, *values: object) -> str:
        with said_to_the_user():
            session = room.session(request)
            with own_names(session):
                return report_readiness(recipe_of(room, session, values), room, session)

    def begin(request: gr.Request, *values: object) -> str:
        with said_to_the_user():
            session = room.session(request)
            with own_names(session):
                recipe = recipe_of(room, session, values)
            job = room.shop.train(recipe, name_of_run(room, values), session.desk)
            return f'<p class="said good" role="status">{text(words("teach.queued", name=job.title))}</p>'

    check.click(look, fields.all, answer, concurrency_id=DEVICE, concurrency_limit=1, api_visibility="private")
    started = start.click(begin, fields.all, answer, api_visibility="private", concurrency_limit=4)
    started.then(None, None, None, js=REFRESH, api_visibility="private")
    return fields


@contextmanager
def own_names(session: Session) -> Generator[None]:
    """Name photos in a user's mistake as their owner does.

    Raises:
        UserError: the mistake, in other words.
    """
    try:
        yield
    except UserError as error:
        raise UserError(with_own_names(session.desk, str(error))) from error


def build_fields(room: Room) -> TeachFields:
    """Build the fields."""
    words = room.words
    with gr.Row():
        noun = gr.Dropdown(
            nouns(),
            label=words("teach.noun"),
            info=words("teach.noun_info"),
            allow_custom_value=True,
            value=None,
            elem_id="teach-noun",
        )
        name = gr.Textbox(label=words("teach.name"), info=words("teach.name_info"), max_length=80, elem_id="teach-name")
    with gr.Row():
        base = gr.Dropdown(
            bases(room),
            value="starter",
            label=words("teach.base"),
            info=words("teach.base_info"),
            allow_custom_value=True,
            elem_id="teach-base",
        )
        method = gr.Dropdown(methods(), value=DEFAULT, label=words("teach.method"), info=words("teach.method_info"))
    efforts = [(words(f"teach.{effort}"), effort) for effort in ("quick", "usual", "thorough")]
    effort = gr.Radio(efforts, value="usual", label=words("teach.effort"), elem_id="teach-effort")
    steps, rate, seed, every = build_numbers(room)
    with gr.Accordion(words("teach.all"), open=False):
        settings = gr.Code(
            label=words("teach.toml"),
            language=None,
            lines=8,
            max_lines=24,
            show_line_numbers=False,
            elem_id="teach-settings",
        )
    filled_for = gr.State(["starter", DEFAULT, "usual"])
    connect_preset((base, method, effort), (steps, rate, every), filled_for)
    return TeachFields(noun, base, method, effort, steps, rate, seed, every, settings, name, filled_for)


def build_numbers(room: Room) -> tuple[gr.Number, gr.Number, gr.Number, gr.Number]:
    """Build the fields of steps, learning rate, seed and previews, filled by the preset."""
    words = room.words
    recommended = preset_fields("starter", DEFAULT, "usual")
    with gr.Row():
        steps = gr.Number(
            recommended["steps"],
            label=words("teach.steps"),
            precision=0,
            minimum=0,
            elem_id="teach-steps",
            min_width=110,
        )
        rate = gr.Number(recommended["rate"], label=words("teach.rate"), minimum=0, step=1e-5, min_width=110)
        seed = gr.Number(0, label=words("teach.seed"), precision=0, minimum=0, min_width=110)
        every = gr.Number(
            recommended["every"],
            label=words("teach.every"),
            precision=0,
            minimum=0,
            elem_id="teach-every",
            min_width=110,
        )
    return steps, rate, seed, every


def connect_preset(
    chosen: tuple[gr.components.Component, ...], filled: tuple[gr.Number, ...], filled_for: gr.State
) -> None:
    """Fill the numbers with what the preset recommends, whenever another one is chosen."""

    def fill(base: str | None, method: str, effort: Effort, known: list[str]) -> list[object]:
        asked = [base or "", method, effort]
        numbers = (
            [gr.skip()] * len(filled) if asked == known else list(preset_fields(base or "", method, effort).values())
        )
        return [*numbers, asked]

    given, shown = [*chosen, filled_for], [*filled, filled_for]
    for component in chosen:
        component.change(fill, given, shown, api_visibility="private", show_progress="hidden")  # pyright: ignore[reportAttributeAccessIssue]


def bases(room: Room) -> list[str]:
    """List the bases that are found: the embedded one, and folders beside the library."""
    return find_bases([room.shop.library.parent / "models", Path("models")])


def recipe_of(room: Room, session: Session, values: tuple[object, ...]) -> Recipe:
    """Build the recipe that the fields say.

    Raises:
        UserError: there are no photos, no class noun, or a field cannot be used.
    """
    noun, base, method, effort, steps, rate, seed, every, settings, _ = values
    if not session.desk.read().entries:
        raise UserError(room.words("teach.no_photos"))
    if not str(noun or "").strip():
        raise UserError(room.words("teach.no_noun"))
    form = RecipeForm(
        class_noun=str(noun),
        base=str(base or ""),
        method=str(method),
        effort=cast("Effort", effort),
        steps=whole(steps),
        learning_rate=float(rate) if isinstance(rate, int | float) and rate else None,
        seed=int(seed) if isinstance(seed, int | float) else None,
        previews_every=whole(every),
        masked=OUTSIDE_MASK_WEIGHT if any(photo.masked for photo in session.desk.read().entries) else None,
        settings=str(settings or ""),
    )
    return recipe_from(form, session.desk.folder / "photos")


def whole(value: object) -> int | None:
    """Read a field of a whole number; an empty one and 0 leave it to the preset."""
    return int(value) if isinstance(value, int | float) and value else None


def name_of_run(room: Room, values: tuple[object, ...]) -> str:
    """Return the name that was given, or the class noun with the first number that is free."""
    given = str(values[-1] or "").strip()
    if given:
        return given
    noun, number = str(values[0] or "run").strip(), 2
    taken = {one.name for one in room.shop.library.iterdir()} | {Path(job.run).name for job in room.shop.jobs.jobs()}
    name = noun
    while name in taken:
        name, number = f"{noun}-{number}", number + 1
    return name


def report_readiness(recipe: Recipe, room: Room, session: Session) -> str:
    """Say what training would use and cost, and what is wrong with the photos."""
    report = doctor(recipe)
    found = dict(report.settings)
    first = [(name, found[name]) for name in ("cost", "memory") if name in found]
    rest = [(name, value) for name, value in report.settings if name not in {"cost", "memory"}]
    findings = "".join(
        f'<li class="{one.severity}" lang="en"><strong>{text(with_own_names(session.desk, one.message))}</strong> '
        f"{text(one.remedy)}</li>"
        for one in report.audit.findings
    )
    return (
        f'<div class="readiness" lang="en" role="status">{definition(first)}'
        f"{f'<ul class=findings>{findings}</ul>' if findings else ''}"
        f"<details><summary>{text(room.words('teach.effective'))}</summary>{definition(rest)}</details></div>"
    )
