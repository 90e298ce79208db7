"""Measure how well bases generate what they were trained on, before and after a change.

    python benchmarks/base.py starter runs/longer/base --work starter_work --out base.json

The tables are by kind of prompt, by retrieval, and by whole sets of images. All bases get the same
prompts and seeds. The column "composed scenes" has the scores of the scenes that the starter's
training composes for the same words: the ceiling. Rows that say "shuffled" give each image its
neighbor's prompt: the floor. Intervals are 95 % bootstraps over the prompts.
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

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent.parent))  # starter_training is in the checkout alone, never installed

from benchmarks.base_prompts import BasePrompts, Generate, Scene, compose_prompts
from benchmarks.base_scores import (
    Encoders,
    References,
    Rows,
    embed_references,
    score_kinds,
    score_retrieval,
    score_set,
)
from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.models import starter
from mascot.models.devices import choose_device
from mascot.models.families.registry import describe, load_family
from mascot.storage.atomic_write import atomic_write
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.world import World

COMPOSED = "composed scenes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The scores of one base, and its images by kind."""

    label: str
    rows: Rows
    images: dict[str, list[Image.Image]]


def measure_base(
    label: str,
    generate: Generate,
    prompts: BasePrompts,
    references: References,
    encoders: Encoders,
    *,
    guidance: float,
    sets: Mapping[str, float],
) -> Column:
    """Generate all images with one base and score them.

    Args:
        label: heading of the column.
        generate: generates with the base.
        prompts: what to generate.
        references: what the images are compared with.
        encoders: embed the images.
        guidance: guidance scale of the images by kind and for retrieval.
        sets: label of each row of whole sets -> its guidance scale.
    """
    log(f"{label}: {sum(map(len, prompts.kinds.values()))} images by kind")
    images = {kind: generate(scenes, guidance) for kind, scenes in prompts.kinds.items()}
    log(f"{label}: {len(prompts.retrieval)} images for retrieval")
    rows = score_kinds(prompts, references, encoders, images)
    rows |= score_retrieval(references, encoders, generate(prompts.retrieval, guidance))
    for name, scale in sets.items():
        log(f"{label}: {len(prompts.set_scenes)} images {name}")
        rows |= score_set(references, encoders, name, generate(prompts.set_scenes, scale))
    return Column(label=label, rows=rows, images=images)


def composed_images(scenes: Sequence[Scene], _guidance: float) -> list[Image.Image]:
    """Return each scene's own composed image: the ceiling."""
    return [scene.image for scene in scenes]


def generate_with(generator: Generator, steps: int) -> Generate:
    """Return a function that generates scenes with a base, each image from its own seed."""

    def generate(scenes: Sequence[Scene], guidance: float) -> list[Image.Image]:
        requests = [ImageRequest(scene.prompt, scene.seed) for scene in scenes]
        images = generator.generate(requests, Knobs(guidance=guidance, steps=steps))
        return list(counted(images, len(requests)))

    return generate


def counted(images: Iterable[Image.Image], total: int) -> Iterator[Image.Image]:
    """Yield images, and log how many there are after every 128."""
    for number, image in enumerate(images, 1):
        if number % 128 == 0:
            log(f"  {number} of {total}")
        yield image


def log(text: str) -> None:
    """Print progress to stderr, so that stdout has only the tables."""
    print(text, file=sys.stderr, flush=True)


def tables(columns: Sequence[Column]) -> str:
    """Format a Markdown table for each section, with one column for each base.

    A dash stands for a missing number.
    """
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
    """Write every number as JSON, with its value for each prompt, completely or not at all."""
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
    prompts: BasePrompts, images: Mapping[str, Sequence[Image.Image]], *, columns: int = 8, side: int = 128
) -> Image.Image:
    """Lay out one row for each kind: its name, and its first images above their prompts."""
    margin, height, columns = 88, side + 50, min(columns, max(len(generated) for generated in images.values()))
    sheet = Image.new("RGB", (margin + columns * (side + 6), len(images) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (kind, generated) in enumerate(images.items()):
        pen.text((6, row * height + side // 2), kind, fill="black")
        for i, (scene, image) in enumerate(zip(prompts.kinds[kind][:columns], generated, strict=False)):
            x, y = margin + i * (side + 6), row * height + 4
            sheet.paste(image.resize((side, side), Image.Resampling.BICUBIC), (x, y))
            pen.multiline_text((x, y + side + 2), textwrap.fill(scene.prompt, 22), fill="black", spacing=1)
    return sheet


def write_sheets(folder: Path, prompts: BasePrompts, columns: Sequence[Column]) -> None:
    """Write one PNG for each column, named after it."""
    for column in columns:
        with atomic_write(folder / f"{file_stem(column.label)}.png") as temporary:
            contact_sheet(prompts, column.images).save(temporary, format="PNG")


def file_stem(label: str) -> str:
    """Turn a base's name into the name of a file."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.") or "base"


def read_world(work: Path) -> World:
    """Read the world of the base's training.

    Raises:
        UserError: its drawings have not been collected.
    """
    drawings = work / "drawings.npz"
    if not drawings.is_file():
        raise UserError(
            f"{drawings} does not exist; run `python -m starter_training collect --work {work}`, "
            "or give another --work."
        )
    return World(drawings)


def check_bases(bases: Sequence[str]) -> None:
    """Refuse, before anything is generated, bases that do not exist or have the same name.

    Raises:
        UserError: one of them does not exist, or two have one name.
    """
    for base in bases:
        describe(base)
    if len({file_stem(base) for base in (*bases, COMPOSED)}) <= len(bases):
        raise UserError("two bases have one name; give each base once, under a name of its own.")


def check_numbers(encoders: Encoders, *, each: int, count: int, guidance: float, steps: int) -> None:
    """Refuse, before anything is generated, numbers that are out of range.

    Raises:
        UserError: one of them is too small or too large.
    """
    if not (0 <= guidance <= 100 and 1 <= steps <= 1000):
        raise UserError(f"--guidance {guidance:g} and --steps {steps} generate nothing; give 0 to 100, and 1 to 1000.")
    if each < 2:
        raise UserError(f"--each {each} leaves no prompts to shuffle; give 2 or more.")
    found = encoders.embed([Image.new("RGB", (64, 64))])
    width = max(found.clip_BD.shape[1], found.identity_BD.shape[1])
    if count and count <= width:
        raise UserError(
            f"--count {count} is too few for embeddings {width} wide; give more than {width}, or 0 to omit sets."
        )


def measure(options: argparse.Namespace) -> None:
    """Measure every base and the composed scenes; print and write the results.

    Raises:
        UserError: a base, an encoder or the drawings do not exist, or a number is out of range.
    """
    check_bases(options.bases)
    device = choose_device("auto")
    encoders = Encoders(
        clip=read_clip(options.clip or starter.clip_folder(), device),
        identity=read_identity_encoder(options.identity or starter.identity_folder(), device),
    )
    check_numbers(encoders, each=options.each, count=options.count, guidance=options.guidance, steps=options.steps)
    prompts = compose_prompts(read_world(options.work), each=options.each, count=options.count, seed=options.seed)
    references = embed_references(prompts, encoders)
    sets = {f"generated at guidance {scale:g}": scale for scale in (1.0, options.guidance)} if options.count else {}
    columns: list[Column] = []
    for base in options.bases:
        generator = Generator(load_family(base, device=device, precision="fp32"), batch_size=32)
        generate = generate_with(generator, options.steps)
        columns.append(
            measure_base(base, generate, prompts, references, encoders, guidance=options.guidance, sets=sets)
        )
    again = {"composed again": 1.0} if options.count else {}
    columns.append(measure_base(COMPOSED, composed_images, prompts, references, encoders, guidance=1.0, sets=again))
    report(options, prompts, encoders, columns)


def report(options: argparse.Namespace, prompts: BasePrompts, encoders: Encoders, columns: Sequence[Column]) -> None:
    """Print the tables; write the numbers and the sheets where the options say so."""
    described = [f"CLIP: {encoders.clip.describe()}", f"identity encoder: {encoders.identity.describe()}"]
    settings = {name: getattr(options, name) for name in ("seed", "each", "count", "guidance", "steps")}
    print("\n".join(f"- {line}" for line in described))
    numbers = ", ".join(f"{name} {value}" for name, value in settings.items())
    print(f"- {numbers}; images use this guidance unless a row says otherwise")
    right = {kind: sum(len(s.nouns) for s in scenes) / len(scenes) for kind, scenes in prompts.kinds.items()}
    chance = f"{right['plain']:.1f} in {len(prompts.nouns)} (two things: {right['two things']:.1f})"
    print(f"- by chance: noun named right {chance}, place 1 in {len(PLACES)}")
    print(tables(columns), flush=True)
    if options.out is not None:
        write_results(options.out, settings, encoders=described, columns=columns)
    if options.sheet is not None:
        write_sheets(options.sheet, prompts, columns)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="a folder, or the word starter")
    parser.add_argument("--work", type=Path, default=Path("starter_work"), help="folder of the starter's training")
    parser.add_argument("--clip", help="folder of a CLIPModel; the embedded one by default")
    parser.add_argument("--identity", help="folder of a vision transformer; the embedded one by default")
    parser.add_argument(
        "--count", type=int, default=1024, help="images in a set for the Frechet distances; 0 omits them"
    )
    parser.add_argument("--each", type=int, default=24, help="prompts of each kind")
    parser.add_argument("--guidance", type=float, default=5.0, help="guidance scale")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the numbers to this file, as JSON")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of each base to this folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or one sentence that says what to correct."""
    try:
        measure(read_options(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
