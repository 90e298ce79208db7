"""The tab Compare: a table of images over two settings, and two adapters with votes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Final

import gradio as gr

from mascot.api.library.adapter_desk import add_adapter
from mascot.api.library.drawing import DrawingRequest, DrawnImage, Scored, subject_of
from mascot.api.library.listing import photos_of
from mascot.api.library.matrix import AXES, Cell, MatrixAxis, draw_matrix, read_axis
from mascot.api.library.votes import Choice, VoteSum
from mascot.errors import UserError
from mascot.generation.loading import base_of, open_stack
from mascot.generation.stack.adapter_sources import AdapterSource
from mascot.studio.markup import chip, empty, table, text
from mascot.studio.sessions import Session
from mascot.studio.tabs.answers import DEVICE, UPLOADED, Room, choose, said_to_the_user
from mascot.studio.tabs.draw import session_adapters, show

STARTS: Final = {"guidance": "1.5, 3, 5", "unet_scale": "0.5, 0.8, 1", "text_scale": "0, 0.5, 1", "seed": "0, 1, 2"}
"""Values that the form offers for an axis."""
Pair = tuple[str, str, str, int]
"""Left and right adapter, prompt and seed of what is shown, for the vote."""


def build_compare(room: Room) -> list[gr.Dropdown]:
    """Build the tab; returns the fields that name adapters: of the table, left, right."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("compare.lead")}</p>')
    with gr.Tabs(elem_classes="inner"):
        with gr.Tab(words("compare.pair"), elem_id="compare-pair"):
            left, right = build_pair(room)
        with gr.Tab(words("compare.grid"), elem_id="compare-grid"):
            run = build_grid(room)
    return [run, left, right]


def offer_runs(room: Room, label: str, field: str) -> gr.Dropdown:
    """Offer runs and kept steps; any name passes, as the list may be older than the server."""
    choices = room.choices()
    return gr.Dropdown(choices, value=None, label=label, elem_id=field, min_width=200, allow_custom_value=True)


def build_grid(room: Room) -> gr.Dropdown:
    """Build the table of images; returns the field of its adapter."""
    words = room.words
    axes = [(words(f"axis.{axis}"), axis) for axis in AXES]
    with gr.Row():
        run = offer_runs(room, words("compare.run"), "grid-run")
        prompt = gr.Textbox(
            "a {subject} on a beach",
            label=words("compare.prompt"),
            max_length=1000,
            elem_id="grid-prompt",
            min_width=220,
        )
        seed = gr.Number(0, label=words("draw.seed"), precision=0, minimum=0, min_width=90, scale=0)
    with gr.Row():
        x_axis = gr.Dropdown(axes, value="guidance", label=words("compare.columns"), elem_id="grid-x", min_width=140)
        x_values = gr.Textbox(STARTS["guidance"], label=words("compare.values"), max_length=1000, elem_id="grid-xs")
        y_axis = gr.Dropdown(axes, value="seed", label=words("compare.rows"), elem_id="grid-y", min_width=140)
        y_values = gr.Textbox(STARTS["seed"], label=words("compare.values"), max_length=1000, elem_id="grid-ys")
    go = gr.Button(words("compare.draw_grid"), variant="primary", elem_id="grid-go")
    result = gr.HTML(empty(words("compare.grid_empty")), elem_id="grid-result", elem_classes="result")

    def draw(name: str, said: str, first: float, x: str, xs: str, y: str, ys: str, request: gr.Request) -> str:  # noqa: PLR0917
        with said_to_the_user():
            session = room.session(request)
            wanted = plan(room, session, name, said, int(first or 0))
            columns, rows = read_axis(x, xs or ""), read_axis(y, ys or "")
            cells = list(
                draw_matrix(room.shop.drawer, wanted, columns, rows, lambda value: room.source(value, session))
            )
            return grid_table(room, session, cells, columns, rows)

    for axis, values in ((x_axis, x_values), (y_axis, y_values)):
        axis.change(partial(offer_values, room), [axis, run], values, api_visibility="private", show_progress="hidden")
    fields = [run, prompt, seed, x_axis, x_values, y_axis, y_values]
    go.click(draw, fields, result, concurrency_id=DEVICE, concurrency_limit=1, api_visibility="private")
    return run


def offer_values(room: Room, axis: str, name: str | None) -> str:
    """Offer values of an axis: numbers, kept steps of the run, or runs."""
    if axis in STARTS:
        return STARTS[axis]
    own = str(name or "").partition("@")[0]
    same = [one for one in room.choices() if axis == "adapter" or one.partition("@")[0] == own]
    return ", ".join(same[:4])


def plan(room: Room, session: Session, name: str | None, prompt: str, seed: int) -> DrawingRequest:
    """Plan one image of one adapter.

    Raises:
        UserError: there is no adapter or no prompt.
    """
    if not name:
        raise UserError(room.words("draw.no_adapter"))
    if not (prompt or "").strip():
        raise UserError(room.words("draw.no_prompt"))
    return DrawingRequest(sources=(room.source(name, session),), prompts=(prompt.strip(),), seed=seed)


def grid_table(room: Room, session: Session, cells: Sequence[Cell], columns: MatrixAxis, rows: MatrixAxis) -> str:
    """Write the table of images with its axes."""
    found = {(cell.row, cell.column): cell for cell in cells}
    head = ["", *(f"{text(room.words(f'axis.{columns.axis}'))} {text(value)}" for value in columns.values)]
    body = [
        [
            f"{text(room.words(f'axis.{rows.axis}'))} {text(value)}",
            *(grid_cell(room, session, found[row, column]) for column in range(len(columns.values))),
        ]
        for row, value in enumerate(rows.values)
    ]
    return table(head, body, caption=next((cell.drawn.prompt for cell in cells if cell.drawn), ""))


def grid_cell(room: Room, session: Session, cell: Cell) -> str:
    """Write one cell: its image, or why there is none."""
    if cell.drawn is None:
        return f'<p class="said" lang="en">{text(cell.sentence)}</p>'
    number = room.shop.sessions.keep_image(session, cell.drawn.image, cell.drawn.text)
    source = f"/studio/image/{number}"
    return f'<a href="{source}" target="_blank"><img src="{source}" alt="{text(cell.drawn.prompt)}"></a>'


def build_pair(room: Room) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Build two adapters side by side, and the vote; returns the fields of both."""
    words = room.words
    with gr.Row(equal_height=True):
        left = offer_runs(room, words("compare.left"), "pair-left")
        right = offer_runs(room, words("compare.right"), "pair-right")
        upload = gr.UploadButton(
            words("draw.upload"),
            file_types=[".safetensors"],
            type="filepath",
            scale=0,
            min_width=150,
            elem_id="pair-upload",
        )
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            "a {subject} in the snow", label=words("compare.prompt"), max_length=1000, elem_id="pair-prompt", scale=4
        )
        seed = gr.Number(
            0, label=words("draw.seed"), precision=0, minimum=0, min_width=90, scale=1, elem_id="pair-seed"
        )
        go = gr.Button(words("compare.draw_pair"), variant="primary", elem_id="pair-go", scale=1, min_width=130)
    shown = gr.State(None)
    result = gr.HTML(empty(words("compare.pair_empty")), elem_id="pair-result", elem_classes="result")
    with gr.Row(elem_classes="votes"):
        buttons = [
            gr.Button(words(f"vote.{choice}"), elem_id=f"vote-{choice}", min_width=100)
            for choice in ("left", "alike", "right")
        ]
    summed = gr.HTML("", elem_id="vote-sum")
    fields = [left, right, prompt, seed]
    connect_pair(room, fields, go, (result, shown, summed))
    connect_votes(room, buttons, shown, summed, seed)
    connect_right(room, upload, right)
    return left, right


def connect_pair(
    room: Room, fields: Sequence[gr.components.Component], go: gr.Button, outputs: tuple[gr.HTML, gr.State, gr.HTML]
) -> None:
    """Let the button generate both images, and show the votes so far."""

    def draw(one: str, other: str, said: str, seed: float, request: gr.Request) -> tuple[str, Pair, str]:
        with said_to_the_user():
            session = room.session(request)
            return show_pair(room, session, (one, other, said, int(seed or 0)))

    go.click(draw, list(fields), list(outputs), concurrency_id=DEVICE, concurrency_limit=1, api_visibility="private")


def show_pair(room: Room, session: Session, pair: Pair) -> tuple[str, Pair, str]:
    """Generate one prompt and seed with both adapters, and measure both images.

    Raises:
        UserError: an adapter, or what it needs, is not there.
    """
    one, other, prompt, seed = pair
    plans = [plan(room, session, name, prompt, seed) for name in (one, other)]
    bases = [base_of(open_stack(wanted.sources)) for wanted in plans]
    sides: list[str] = []
    for wanted, own, theirs, name in zip(plans, bases, reversed(bases), (one, other), strict=True):
        base = None if own else theirs  # another tool's file does not say its base
        drawn = room.shop.drawer.draw(
            DrawingRequest(sources=wanted.sources, prompts=wanted.prompts, seed=seed, base=base)
        )
        sources = (wanted.sources[0], *(plan.sources[0] for plan in plans))
        scores = score(room, sources, drawn, own or theirs, judge_of(one, other))
        head = f"<h3>{text(name)}</h3>"
        sides.append(f"<section>{head}{show(room, session, drawn[0], scores)}</section>")
    return f'<div class="pair">{"".join(sides)}</div>', pair, vote_line(room, one, other)


def judge_of(one: str, other: str) -> str:
    """Name the run whose photos both images are held against: the first that has some."""
    return other if one.startswith(UPLOADED) else one


def score(
    room: Room, sources: Sequence[AdapterSource], drawn: Sequence[DrawnImage], base: str | None, judge: str
) -> str:
    """Write the scores of an image; a note where they cannot be measured.

    The first of `sources` that names a subject says which token the prompt has.
    """
    try:
        photos = [] if judge.startswith(UPLOADED) else photos_of(room.run(judge))
        stacks = [open_stack([source])[0] for source in sources]
        [found] = room.shop.drawer.measure(drawn, photos, subject_of(stacks), str(base))
    except UserError as error:
        return f'<p class="said" lang="en">{text(error)}</p>'
    return f'<span class="chips">{score_chips(room, found)}</span>'


def score_chips(room: Room, found: Scored) -> str:
    """Write both scores of an image."""
    chips = [chip(f"{room.words('compare.prompt_score')} {found.prompt:.3f}")]
    if found.likeness is not None:
        chips.insert(0, chip(f"{room.words('compare.likeness')} {found.likeness:.3f}"))
    return "".join(chips)


def connect_votes(
    room: Room, buttons: Sequence[gr.Button], shown: gr.State, summed: gr.HTML, seed: gr.components.Component
) -> None:
    """Let each button keep a vote, and go on with the next seed."""

    def vote_as(choice: Choice):  # noqa: ANN202 - a function for Gradio
        def vote(pair: Pair | None) -> tuple[str, object]:
            with said_to_the_user():
                if pair is None:
                    raise UserError(room.words("vote.nothing"))
                left, right, prompt, number = pair
                room.shop.votes.cast(left, right, choice, prompt=prompt, seed=number)
                return vote_line(room, left, right), number + 1

        return vote

    for button, choice in zip(buttons, ("left", "alike", "right"), strict=True):
        button.click(vote_as(choice), shown, [summed, seed], api_visibility="private")


def vote_line(room: Room, one: str, other: str) -> str:
    """Say how the votes between two adapters stand, with the interval."""
    if one == other:
        return ""
    found = room.shop.votes.between(one, other)
    if found.share is None and not found.alike:
        return f'<p class="said">{text(room.words("vote.none"))}</p>'
    return f'<p class="said" role="status">{describe_votes(room, found)}</p>'


def describe_votes(room: Room, found: VoteSum) -> str:
    """Write a sum of votes in a sentence."""
    counts = room.words(
        "vote.counts", one=found.one, wins=found.wins, other=found.other, losses=found.losses, alike=found.alike
    )
    if found.share is None:
        return escape(counts)
    share = room.words(
        "vote.share", one=found.one, share=f"{found.share:.0%}", low=f"{found.low:.0%}", high=f"{found.high:.0%}"
    )
    decided = "" if found.low <= 0.5 <= found.high else " " + room.words("vote.decided")
    return escape(f"{counts} {share}{decided}")


def connect_right(room: Room, upload: gr.UploadButton, right: gr.Dropdown) -> None:
    """Let another tool's adapter file stand on the right."""

    def take(path: str | None, request: gr.Request) -> gr.Dropdown:
        with said_to_the_user():
            session = room.session(request)
            name = f"{UPLOADED}{add_adapter(session.adapters, Path(str(path)))}"
            return gr.Dropdown(choices=[*room.choices(), *session_adapters(session)], value=name)

    upload.upload(take, upload, right, api_visibility="private")


def offer_pair(room: Room, names: Sequence[str | None], request: gr.Request) -> list[gr.Dropdown]:
    """Offer what can be compared now."""
    choices = [*room.choices(), *session_adapters(room.session(request))]
    run, left, right = names
    second = right if right in choices else (choices[1] if len(choices) > 1 else None)
    return [choose(choices, run), choose(choices, left), choose(choices, second)]
