"""How well bases draw what their world knows: by kind of prompt, by retrieval, and as whole sets, before and after a change.

    python benchmarks/base.py starter runs/longer/base --work starter_work --out base.json --sheet sheets

All bases get the same prompts and seeds. The column "composed scenes" is what the recipe's own world composes for the same words, the
ceiling; rows that say "shuffled" give each picture its neighbour's prompt, the floor. Intervals are 95 % bootstraps over the prompts.

Shape suffixes: B pictures, N choices, I individuals, M pictures of each, D width of an embedding.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # the recipe is a part of the checkout and is never installed

from benchmarks.exams import Draw, Exam, Scene, write_exam
from mascot.errors import UserError
from mascot.evaluation.metrics.frechet import frechet_distance
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import similarity
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.families.registry import describe, load_family
from mascot.storage.atomic_write import atomic_write
from starter_recipe.places import PLACES
from starter_recipe.world import ARTICLE, World

RESAMPLES = 4000
COMPOSED = "composed scenes"
KINDS_SECTION, RETRIEVAL_SECTION, SETS_SECTION = "By kind of prompt", "Right prompt found", "Whole sets of pictures"


class Encoder(Protocol):
    """What turns pictures into unit vectors."""

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures. Shape B x D."""
        ...

    def describe(self) -> str:
        """Say in one line what it is."""
        ...


class Clip(Encoder, Protocol):
    """What turns pictures and prompts into unit vectors of one space."""

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts. Shape B x D."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Pictures as both encoders see them, each embedded once."""

    clip_BD: Tensor
    identity_BD: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The two encoders."""

    clip: Clip
    identity: Encoder

    def image_conditioning(self, images: Sequence[Image.Image]) -> Embedded:
        """Embed pictures by both."""
        return Embedded(clip_BD=self.clip.embed(images), identity_BD=self.identity.embed(images))


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The exam as the encoders see it: what each base's pictures are compared with."""

    prompts: dict[str, Tensor]
    """Kind -> B x D."""
    nouns_ND: Tensor
    places_BND: Tensor
    """For each scene in a place its noun in every place."""
    likenesses: dict[str, Tensor]
    """Noun -> I x M x D."""
    retrieval_BD: Tensor
    fresh: Embedded | None
    """None where sets are not compared."""


def write_key(exam: Exam, encoders: Judges) -> Key:
    """Embed all that is the same for every base."""
    read = encoders.clip.embed_prompts
    placed = [ARTICLE.sub("an", f"a {scene.nouns[0]} {place}") for scene in exam.kinds["places"] for place in PLACES]
    return Key(
        prompts={kind: read([scene.prompt for scene in scenes]) for kind, scenes in exam.kinds.items()},
        nouns_ND=read([ARTICLE.sub("an", f"a photo of a {noun}") for noun in exam.nouns]),
        places_BND=read(placed).unflatten(0, (-1, len(PLACES))),
        likenesses={
            noun: torch.stack([encoders.identity.embed(images) for images in who])
            for noun, who in exam.likenesses.items()
        },
        retrieval_BD=read([scene.prompt for scene in exam.retrieval]),
        fresh=encoders.image_conditioning(exam.fresh) if exam.fresh else None,
    )


def cosines(images_BD: Tensor, prompts_BD: Tensor) -> list[float]:
    """Each picture's cosine with the prompt of its row."""
    rows = zip(images_BD.split(1), prompts_BD.split(1), strict=True)
    return [prompt_fidelity(image_BD, prompt_BD) for image_BD, prompt_BD in rows]


def nearest(images_BD: Tensor, choices_ND: Tensor) -> list[int]:
    """Each picture's nearest choice; choices may differ from picture to picture (B x N x D)."""
    return (choices_ND @ images_BD.unsqueeze(-1)).squeeze(-1).argmax(-1).tolist()


def likeness_margin(image_D: Tensor, likenesses_IMD: Tensor, right: int) -> float:
    """How much liker a picture is to the right individual than to the others of its noun, in cosines."""
    others_BD = torch.cat([row_MD for i, row_MD in enumerate(likenesses_IMD) if i != right])
    return similarity(image_D[None], likenesses_IMD[right]) - similarity(image_D[None], others_BD)


def found_within(images_BD: Tensor, prompts_BD: Tensor, rank: int) -> list[float]:
    """Whether each picture's own prompt is among the `rank` nearest to it: 0 or 1, and its chance where prompts tie."""
    cosines_BB = images_BD.double() @ prompts_BD.double().T
    own_B1 = cosines_BB.diagonal()[:, None]
    nearer_B, tied_B = (cosines_BB > own_B1).sum(1), (cosines_BB == own_B1).sum(1)
    return ((rank - nearer_B) / tied_B).clamp(0, 1).tolist()


def mark_kind(exam: Exam, key: Key, kind: str, seen: Embedded) -> dict[str, list[float]]:
    """Measure -> its value for each prompt of a kind."""
    scenes, prompts_BD = exam.kinds[kind], key.prompts[kind]
    named = nearest(seen.clip_BD, key.nouns_ND)
    marks = {
        "CLIP-T": cosines(seen.clip_BD, prompts_BD),
        "CLIP-T, shuffled": cosines(seen.clip_BD, prompts_BD.roll(1, 0)),
        "noun named right": [float(exam.nouns[i] in scene.nouns) for i, scene in zip(named, scenes, strict=True)],
    }
    if kind == "places":
        answers = [list(PLACES)[i] for i in nearest(seen.clip_BD, key.places_BND)]
        marks["place named right"] = [
            float(answer == scene.place) for answer, scene in zip(answers, scenes, strict=True)
        ]
    if kind == "names":
        for measure, images_BD in (("", seen.identity_BD), (", shuffled", seen.identity_BD.roll(1, 0))):
            rows = zip(images_BD, scenes, strict=True)
            marks[f"right minus other individuals{measure}"] = [
                likeness_margin(image_D, key.likenesses[scene.nouns[0]], scene.individual) for image_D, scene in rows
            ]
    return marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One cell of a table: a number, where it is a mean its 95 % interval, and the values it is the mean of, prompt by prompt."""

    value: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.value:.4f}" if self.low is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean_of(values: Sequence[float]) -> Measured:
    """The mean and its 95 % percentile bootstrap interval."""
    table = np.asarray(values, float)
    chosen = np.random.default_rng(0).integers(len(table), size=(RESAMPLES, len(table)))
    low, high = np.quantile(table[chosen].mean(1), (0.025, 0.975))
    return Measured(
        value=float(table.mean()), low=float(low), high=float(high), values=tuple(float(value) for value in values)
    )


Rows = dict[tuple[str, str, str], Measured]
"""Section, what was asked, measure -> cell."""


def mark_kinds(exam: Exam, key: Key, encoders: Judges, images: Mapping[str, Sequence[Image.Image]]) -> Rows:
    """All cells of one column by kind of prompt."""
    marks = {kind: mark_kind(exam, key, kind, encoders.image_conditioning(drawn)) for kind, drawn in images.items()}
    return {
        (KINDS_SECTION, kind, measure): mean_of(values)
        for kind, found in marks.items()
        for measure, values in found.items()
    }


def mark_retrieval(key: Key, encoders: Judges, images: Sequence[Image.Image]) -> Rows:
    """How often the right prompt is found, at rank 1 and 5; one column's cells."""
    images_BD, asked = encoders.clip.embed(images), f"among {len(images)}"
    return {
        (RETRIEVAL_SECTION, asked, f"rank {k}"): mean_of(found_within(images_BD, key.retrieval_BD, k)) for k in (1, 5)
    }


def mark_set(key: Key, encoders: Judges, how: str, images: Sequence[Image.Image]) -> Rows:
    """The Frechet distance of a set to fresh compositions in both encoders' spaces; one column's cells."""
    assert key.fresh is not None, "sets are compared only where the exam has a set to compare with"
    seen = encoders.image_conditioning(images)
    pairs = {"identity encoder": (seen.identity_BD, key.fresh.identity_BD), "CLIP": (seen.clip_BD, key.fresh.clip_BD)}
    return {
        (SETS_SECTION, how, f"Fréchet distance, {name}"): Measured(value=frechet_distance(*both))
        for name, both in pairs.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What one base was marked, and its pictures by kind."""

    label: str
    rows: Rows
    images: dict[str, list[Image.Image]]


def examine(
    label: str, draw: Draw, exam: Exam, key: Key, encoders: Judges, *, guidance: float, sets: Mapping[str, float]
) -> Column:
    """Let one base draw everything, and mark it. `sets`: what a row of whole sets is called -> the guidance it is drawn at."""
    tell(f"{label}: {sum(map(len, exam.kinds.values()))} pictures by kind")
    images = {kind: draw(scenes, guidance) for kind, scenes in exam.kinds.items()}
    tell(f"{label}: {len(exam.retrieval)} pictures for retrieval")
    rows = mark_kinds(exam, key, encoders, images) | mark_retrieval(key, encoders, draw(exam.retrieval, guidance))
    for how, scale in sets.items():
        tell(f"{label}: {len(exam.whole)} pictures {how}")
        rows |= mark_set(key, encoders, how, draw(exam.whole, scale))
    return Column(label=label, rows=rows, images=images)


def recall(scenes: Sequence[Scene], _guidance: float) -> list[Image.Image]:
    """Answer each scene with its own composed picture: the ceiling."""
    return [scene.image for scene in scenes]


def drawn_by(generator: Generator, steps: int) -> Draw:
    """Let a base draw, each picture from its own seed."""

    def draw(scenes: Sequence[Scene], guidance: float) -> list[Image.Image]:
        requests = [ImageRequest(scene.prompt, scene.seed) for scene in scenes]
        images = generator.generate(requests, Knobs(guidance=guidance, steps=steps))
        return list(watched(images, len(requests)))

    return draw


def watched(images: Iterable[Image.Image], total: int) -> Iterator[Image.Image]:
    """Pass pictures on, and say now and then how many have come."""
    for number, image in enumerate(images, 1):
        if number % 128 == 0:
            tell(f"  {number} of {total}")
        yield image


def tell(text: str) -> None:
    """Say how far it is, beside the tables and not among them."""
    print(text, file=sys.stderr, flush=True)


def tables(columns: Sequence[Column]) -> str:
    """Markdown, one table for each section, one column for each base; a cell that a base has no number for is a dash."""
    keys = dict.fromkeys(row for column in columns for row in column.rows)
    lines: list[str] = []
    for section in dict.fromkeys(section for section, _, _ in keys):
        head = ["asked", "measure", *(column.label for column in columns)]
        lines += ["", f"## {section}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in (row for row in keys if row[0] == section):
            cells = [str(column.rows.get(row, "-")) for column in columns]
            lines.append(f"| {' | '.join([*row[1:], *cells])} |")
    return "\n".join(lines)


def write_results(
    path: Path, settings: Mapping[str, str | int | float], encoders: Sequence[str], columns: Sequence[Column]
) -> None:
    """Write every number as JSON, with its values prompt by prompt; whole or not at all."""
    keys = dict.fromkeys(row for column in columns for row in column.rows)
    rows = [
        dict(zip(("section", "asked", "measure"), row, strict=True))
        | {"columns": {column.label: asdict(column.rows[row]) for column in columns if row in column.rows}}
        for row in keys
    ]
    with atomic_write(path) as temporary:
        text = json.dumps({"version": 1, "settings": settings, "encoders": encoders, "rows": rows}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def contact_sheet(
    exam: Exam, images: Mapping[str, Sequence[Image.Image]], *, columns: int = 8, side: int = 128
) -> Image.Image:
    """One row for each kind: its name, and its first pictures above their prompts."""
    margin, height, columns = 88, side + 50, min(columns, max(len(drawn) for drawn in images.values()))
    sheet = Image.new("RGB", (margin + columns * (side + 6), len(images) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (kind, drawn) in enumerate(images.items()):
        pen.text((6, row * height + side // 2), kind, fill="black")
        for i, (scene, image) in enumerate(zip(exam.kinds[kind][:columns], drawn, strict=False)):
            x, y = margin + i * (side + 6), row * height + 4
            sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
            pen.multiline_text((x, y + side + 2), textwrap.fill(scene.prompt, 22), fill="black", spacing=1)
    return sheet


def write_sheets(folder: Path, exam: Exam, columns: Sequence[Column]) -> None:
    """Write one PNG for each column, named after it."""
    for column in columns:
        with atomic_write(folder / f"{file_stem(column.label)}.png") as temporary:
            contact_sheet(exam, column.images).save(temporary, format="PNG")


def file_stem(label: str) -> str:
    """A base's name as the name of a file."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "base"


def read_world(work: Path) -> World:
    """The world that bases learn from.

    Raises:
        UserError: its drawings have not been collected.
    """
    drawings = work / "drawings.npz"
    if not drawings.is_file():
        raise UserError(
            f"{drawings} does not exist; run `python -m starter_recipe collect --work {work}`, or give another --work."
        )
    return World(drawings)


def check_bases(bases: Sequence[str]) -> None:
    """Refuse, before anything is drawn, bases that are not there or could not be told apart.

    Raises:
        UserError: one of them is not there, or two have one name.
    """
    for base in bases:
        describe(base)
    if len({file_stem(base) for base in (*bases, COMPOSED)}) <= len(bases):
        raise UserError("two bases have one name; give each base once, under a name of its own.")


def check_numbers(encoders: Judges, *, each: int, count: int, guidance: float, steps: int) -> None:
    """Refuse, before anything is drawn, numbers with which nothing can be drawn or measured.

    Raises:
        UserError: one of them is too small or too large.
    """
    if not (0 <= guidance <= 100 and 1 <= steps <= 1000):
        raise UserError(f"--guidance {guidance:g} and --steps {steps} draw nothing; give 0 to 100, and 1 to 1000.")
    if each < 2:
        raise UserError(f"--each {each} leaves no prompts to shuffle; give 2 or more.")
    seen = encoders.image_conditioning([Image.new("RGB", (64, 64))])
    width = max(seen.clip_BD.shape[1], seen.identity_BD.shape[1])
    if count and count <= width:
        raise UserError(
            f"--count {count} is too few for embeddings {width} wide; give more than {width}, or 0 to leave sets out."
        )


def measure(options: argparse.Namespace) -> None:
    """Examine every base and the composed scenes; print and write what came of it.

    Raises:
        UserError: a base, an encoder or the drawings are not there, or the numbers do not suit.
    """
    check_bases(options.bases)
    device = choose_device("auto")
    encoders = Judges(
        clip=read_clip(options.clip or starter.clip_folder(), device),
        identity=read_identity_encoder(options.identity or starter.identity_folder(), device),
    )
    check_numbers(encoders, each=options.each, count=options.count, guidance=options.guidance, steps=options.steps)
    exam = write_exam(read_world(options.work), each=options.each, count=options.count, seed=options.seed)
    key = write_key(exam, encoders)
    sets = {f"drawn at guidance {scale:g}": scale for scale in (1.0, options.guidance)} if options.count else {}
    columns: list[Column] = []
    for base in options.bases:
        draw = drawn_by(Generator(load_family(base, device=device, precision="fp32"), batch_size=32), options.steps)
        columns.append(examine(base, draw, exam, key, encoders, guidance=options.guidance, sets=sets))
    columns.append(
        examine(
            COMPOSED, recall, exam, key, encoders, guidance=1.0, sets={"composed again": 1.0} if options.count else {}
        )
    )
    report(options, exam, encoders, columns)


def report(options: argparse.Namespace, exam: Exam, encoders: Judges, columns: Sequence[Column]) -> None:
    """Print the tables; write the numbers and the sheets where they are wanted."""
    described = [f"CLIP: {encoders.clip.describe()}", f"identity encoder: {encoders.identity.describe()}"]
    settings = {name: getattr(options, name) for name in ("seed", "each", "count", "guidance", "steps")}
    print("\n".join(f"- {line}" for line in described))
    print(
        "- "
        + ", ".join(f"{name} {value}" for name, value in settings.items())
        + "; pictures not said otherwise: at that guidance"
    )
    print(f"- by chance: noun named right 1 in {len(exam.nouns)} (two things: 2), place 1 in {len(PLACES)}")
    print(tables(columns), flush=True)
    if options.out is not None:
        write_results(options.out, settings, encoders, columns)
    if options.sheet is not None:
        write_sheets(options.sheet, exam, columns)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="a folder, or the word starter")
    parser.add_argument("--work", type=Path, default=Path("starter_work"), help="where the recipe keeps its drawings")
    parser.add_argument("--clip", help="a CLIPModel's folder; the embedded one when not given")
    parser.add_argument("--identity", help="a vision transformer's folder; the embedded one when not given")
    parser.add_argument(
        "--count", type=int, default=1024, help="pictures of a set for the Frechet distances; 0 leaves them out"
    )
    parser.add_argument("--each", type=int, default=24, help="prompts of a kind")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the numbers, as JSON")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet for each base into this folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or one sentence that says what to mend."""
    try:
        measure(read_options(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
