"""The tab Draw: prompts to images with one adapter or several, from noise or from an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import gradio as gr
import numpy as np
from PIL import Image

from mascot.api.library.adapter_desk import add_adapter, list_adapters
from mascot.api.library.drawing import DrawingRequest, DrawnImage, recommended_for
from mascot.api.library.photo_desk import write_plain
from mascot.errors import UserError
from mascot.generation.prompts.prompt_sets import CONTEXTS
from mascot.progress import Event, ImageFitted, PromptRead, PromptTruncated, TokenShared
from mascot.studio.markup import drawn_card, text
from mascot.studio.sessions import Session
from mascot.studio.tabs.answers import DEVICE, UPLOADED, Room, lines_of, said_to_the_user

MOST_PROMPTS: Final = 12
MOST_IMAGES: Final = 24
"""Most images of one press of the button."""
KNOBS: Final = ("guidance", "unet_scale", "text_scale")
"""The three knobs."""


@dataclass(frozen=True, slots=True)
class DrawFields:
    """The fields of the tab, in the order in which events pass them."""

    adapters: gr.Dropdown
    prompts: gr.Textbox
    guidance: gr.Slider
    unet_scale: gr.Slider
    text_scale: gr.Slider
    seed: gr.Number
    count: gr.Slider
    negative: gr.Textbox
    width: gr.Number
    height: gr.Number
    canvas: gr.ImageEditor
    strength: gr.Slider
    base: gr.Textbox

    @property
    def all(self) -> list[gr.components.Component]:
        """The fields as a list."""
        return [getattr(self, name) for name in self.__dataclass_fields__]


def build_draw(room: Room) -> DrawFields:
    """Build the tab; returns its fields."""
    words = room.words
    gr.HTML(f'<p class="lead">{words("draw.lead")}</p>')
    with gr.Row(elem_classes="sides"):
        with gr.Column(scale=5, min_width=300):
            fields, marks, upload, contexts = build_fields(room)
            go = gr.Button(words("draw.go"), variant="primary", elem_id="draw-go")
        with gr.Column(scale=6, min_width=300):
            result = gr.HTML(
                f'<p class="empty">{words("draw.empty")}</p>', elem_id="draw-result", elem_classes="result"
            )

    def draw(request: gr.Request, *values: object) -> str:
        with said_to_the_user():
            return draw_all(room, room.session(request), values)

    def recommend(names: list[str] | None, request: gr.Request) -> list[object]:
        return knobs_of(room, room.session(request), names or [])

    go.click(draw, fields.all, result, concurrency_id=DEVICE, concurrency_limit=1, api_visibility="private")
    knobs = [fields.guidance, fields.unet_scale, fields.text_scale, marks]
    fields.adapters.change(recommend, fields.adapters, knobs, api_visibility="private", show_progress="hidden")
    contexts.input(add_context, [fields.prompts, contexts], [fields.prompts, contexts], api_visibility="private")
    connect_upload(room, upload, fields.adapters)
    return fields


def build_fields(room: Room) -> tuple[DrawFields, gr.HTML, gr.UploadButton, gr.Dropdown]:
    """Build the fields, the marks of the recommended knobs, and what fills fields."""
    words = room.words
    with gr.Row(equal_height=True):
        adapters = gr.Dropdown(
            room.choices(),
            multiselect=True,
            allow_custom_value=True,  # the list may be older than the server; names are checked where they are used
            label=words("draw.adapters"),
            info=words("draw.adapters_info"),
            elem_id="draw-adapters",
            scale=3,
            min_width=220,
        )
        upload = gr.UploadButton(
            words("draw.upload"), file_types=[".safetensors"], type="filepath", scale=1, min_width=120
        )
    prompts, contexts = build_prompts(room)
    with gr.Group():
        guidance, unet, texts = (
            knob(room, name, *span)
            for name, span in {"guidance": (20, 3, 0.1), "unet": (2, 1, 0.05), "text": (2, 1, 0.05)}.items()
        )
    marks = gr.HTML("", elem_classes="marks")
    with gr.Row():
        seed = gr.Number(0, label=words("draw.seed"), precision=0, minimum=0, elem_id="draw-seed", min_width=110)
        count = gr.Slider(1, 8, 2, step=1, label=words("draw.count"), elem_id="draw-count", min_width=140)
    negative, width, height, base = build_more(room)
    canvas, strength = build_canvas(room)
    fields = DrawFields(
        adapters, prompts, guidance, unet, texts, seed, count, negative, width, height, canvas, strength, base
    )
    return fields, marks, upload, contexts


def knob(room: Room, name: str, most: float, value: float, step: float) -> gr.Slider:
    """Build the field of a knob, with what it does."""
    label, info = room.words(f"draw.{name}"), room.words(f"draw.{name}_info")
    return gr.Slider(0, most, value, step=step, label=label, info=info, elem_id=f"draw-{name}", min_width=140)


def build_prompts(room: Room) -> tuple[gr.Textbox, gr.Dropdown]:
    """Build the field of the prompts, and the list of contexts that adds to it."""
    words = room.words
    prompts = gr.Textbox(
        label=words("draw.prompts"),
        info=words("draw.prompts_info"),
        lines=3,
        max_lines=8,
        max_length=4000,
        value="a {subject} in the snow",
        elem_id="draw-prompts",
    )
    every = [prompt for prompts_of in CONTEXTS.values() for prompt in prompts_of]
    contexts = gr.Dropdown(every, label=words("draw.contexts"), value=None, elem_id="draw-contexts")
    return prompts, contexts


def build_more(room: Room) -> tuple[gr.Textbox, gr.Number, gr.Number, gr.Textbox]:
    """Build the fields of the negative prompt, the size and the base."""
    words = room.words
    with gr.Accordion(words("draw.more"), open=False):
        negative = gr.Textbox(label=words("draw.negative"), max_length=2000)
        with gr.Row():
            width = gr.Number(
                None, label=words("draw.width"), info=words("draw.size_info"), precision=0, minimum=0, min_width=110
            )
            height = gr.Number(
                None, label=words("draw.height"), info=words("draw.size_info"), precision=0, minimum=0, min_width=110
            )
        base = gr.Textbox(label=words("draw.base"), info=words("draw.base_info"), max_length=400)
    return negative, width, height, base


def build_canvas(room: Room) -> tuple[gr.ImageEditor, gr.Slider]:
    """Build the canvas of the image to start from, and how much of it is redrawn."""
    words = room.words
    with gr.Accordion(words("draw.from_image"), open=False):
        gr.HTML(f"<p>{words('draw.brush')}</p>")
        canvas = gr.ImageEditor(
            label=words("draw.image"),
            type="pil",
            image_mode="RGBA",
            sources=("upload", "clipboard"),
            height=420,
            brush=gr.Brush(default_size=24, colors=["#ffffff"], color_mode="fixed"),
            layers=False,
            elem_id="draw-canvas",
            transforms=(),
        )
        strength = gr.Slider(0.05, 1, 0.6, step=0.05, label=words("draw.strength"))
    return canvas, strength


def connect_upload(room: Room, upload: gr.UploadButton, adapters: gr.Dropdown) -> None:
    """Let an uploaded adapter file join the choices of its session."""

    def take(path: str | None, names: list[str] | None, request: gr.Request) -> gr.Dropdown:
        with said_to_the_user():
            session = room.session(request)
            name = add_adapter(session.adapters, Path(str(path)))
            return gr.Dropdown(
                choices=[*room.choices(), *session_adapters(session)], value=[*(names or []), f"{UPLOADED}{name}"]
            )

    upload.upload(take, [upload, adapters], adapters, api_visibility="private")


def session_adapters(session: Session) -> list[str]:
    """List the names of a session's own adapter files."""
    return [f"{UPLOADED}{name}" for name in list_adapters(session.adapters)]


def offer_adapters(room: Room, names: list[str] | None, request: gr.Request) -> gr.Dropdown:
    """Offer what images can be generated with now; the newest finished run where none is chosen."""
    choices = [*room.choices(), *session_adapters(room.session(request))]
    newest = [name for name in choices if "@" not in name][:1]
    return gr.Dropdown(choices=choices, value=[name for name in names if name in choices] if names else newest)


def knobs_of(room: Room, session: Session, names: list[str]) -> list[object]:
    """Set the three knobs to what training recommends, and mark those values."""
    if not names:
        return [gr.skip(), gr.skip(), gr.skip(), ""]
    try:
        knobs = recommended_for(room.source(names[0], session))
    except UserError:
        return [gr.skip(), gr.skip(), gr.skip(), ""]
    values = [float(getattr(knobs, name)) for name in KNOBS]
    said = ", ".join(
        f"{text(room.words(f'draw.{short}'))} <b>{value:g}</b>"
        for short, value in zip(("guidance", "unet", "text"), values, strict=True)
    )
    return [*values, f'<p class="mark">◆ {room.words("draw.recommended")} {said}</p>']


def add_context(prompts: str, context: str | None) -> tuple[str, None]:
    """Add a context as a line of the prompts."""
    return "\n".join([*lines_of(prompts or ""), *([context] if context else [])]), None


def draw_all(room: Room, session: Session, values: tuple[object, ...]) -> str:
    """Generate what the fields say, keep the images in the session, and show them.

    Raises:
        UserError: a field cannot be used.
    """
    notes: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, PromptTruncated | PromptRead | ImageFitted | TokenShared):
            notes.append(event.message)

    wanted = request_of(room, session, values)
    drawn = room.shop.drawer.draw(wanted, note)
    cards = "".join(show(room, session, one) for one in drawn)
    said = "".join(f'<p class="said" lang="en">{text(one)}.</p>' for one in dict.fromkeys(notes))
    return f'{said}<div class="drawing">{cards}</div>'


def show(room: Room, session: Session, one: DrawnImage, scores: str = "") -> str:
    """Keep an image in the session, and write its card."""
    number = room.shop.sessions.keep_image(session, one.image, one.text)
    return drawn_card(number, one.prompt, one.seed, one.text, words=room.words, scores=scores)


def request_of(room: Room, session: Session, values: tuple[object, ...]) -> DrawingRequest:
    """Read the fields.

    Raises:
        UserError: no adapter or prompt is given, or too many images are asked for.
    """
    names, prompts, guidance, unet, texts, seed, count, negative, width, height, canvas, strength, base = values
    chosen = [str(name) for name in cast("list[str]", names or [])]
    if not chosen:
        raise UserError(room.words("draw.no_adapter"))
    lines = lines_of(str(prompts or ""))
    if not lines:
        raise UserError(room.words("draw.no_prompt"))
    number = int(cast("float", count or 1))
    if len(lines) > MOST_PROMPTS or len(lines) * number > MOST_IMAGES:
        raise UserError(room.words("draw.too_many", most=MOST_IMAGES))
    sources = tuple(room.source(name, session) for name in chosen)
    scales = {} if len(chosen) > 1 else {"unet_scale": unet, "text_scale": texts}
    recommended = recommended_for(sources[0])
    given: dict[str, Any] = {"guidance": guidance, **scales, "negative": str(negative or "") or None}
    given |= {"width": whole(width), "height": whole(height)}
    changes = {key: value for key, value in given.items() if value is not None and value != getattr(recommended, key)}
    image, mask = painted(session, canvas)
    return DrawingRequest(
        sources=sources,
        prompts=lines,
        changes=changes,
        count=number,
        seed=int(cast("float", seed or 0)),
        base=str(base or "").strip() or None,
        image=image,
        mask=mask,
        strength=float(cast("float", strength)) if image else None,
    )


def whole(value: object) -> int | None:
    """Read a whole number; an empty field and 0 are none."""
    return int(value) if isinstance(value, int | float) and value else None


def painted(session: Session, canvas: object) -> tuple[Path | None, Path | None]:
    """Write the image of the canvas, and as a mask what was painted over it, into the session."""
    if not isinstance(canvas, dict) or not isinstance(background := canvas.get("background"), Image.Image):
        return None, None
    if not np.asarray(background.convert("RGBA"))[..., 3].any():
        return None, None
    image, mask = session.folder / "start.png", session.folder / "start.mask.png"
    write_plain(background.convert("RGB"), image)
    layers = [layer for layer in cast("list[object]", canvas.get("layers") or []) if isinstance(layer, Image.Image)]
    alpha = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in layers]
    if not alpha or not any(one.any() for one in alpha):
        return image, None
    write_plain(Image.fromarray(np.maximum.reduce(alpha)).resize(background.size), mask)
    return image, mask
