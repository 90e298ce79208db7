"""HTML pages of scores: one run, or two runs side by side.

Each page is one file with all its images inside, so it opens offline. This file decides what a page
holds; `page.html.jinja` of the room `reports` decides how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mascot.evaluation.comparison import Comparison
from mascot.evaluation.score_tables import (
    comparison_table,
    folds_table,
    means_table,
    prompts_table,
    runs_table,
    subjects_tables,
)
from mascot.evaluation.scores import FoldScores, ImageScores, JointScores, PromptScores, Scores, titles
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, read_thumbnail
from mascot.reports.table import format_score

EXTREMES = 6
"""Number of images in the strips of the best and of the worst, and of a held-out photo."""


def scores_page(scores: Scores, folder: Path, base: Sequence[Path] = ()) -> Page:
    """Build the page of one run: tables, the best and the worst images, and every prompt.

    `folder` is the folder of the scores. `base` holds the base model's images, ordered by prompt
    and then by seed; it may be empty.
    """
    return Page(
        title=f"{scores.subject} on {scores.base}: scores",
        about="Images that the adapter generates of contexts that no photo shows, scored by the encoders named below.",
        sections=(
            PageSection(
                id="scores",
                title="Scores",
                tables=(runs_table([scores]), *subjects_tables(scores), means_table([scores])),
            ),
            *([held_out_section(scores, folder)] if scores.folds else []),
            *([together_section(scores.together, folder)] if scores.together is not None else []),
            PageSection(
                id="extremes",
                title="Best and worst",
                lead="Of all images, by one score each.",
                rows=extremes(scores, folder),
            ),
            PageSection(id="table", title="Prompt by prompt", tables=(prompts_table(scores),)),
            PageSection(
                id="prompts",
                title="All images",
                lead="Beside them: the base model with the same prompts, with the class noun alone." if base else "",
                rows=tuple(prompt_row(scores, number, folder, base) for number in range(len(scores.prompts))),
            ),
        ),
    )


def together_section(joint: JointScores, folder: Path) -> PageSection:
    """Build the section on images that should show all subjects."""
    rows: list[PageRow] = []
    for prompt in joint.prompts:
        captions = [
            f"least present {format_score(image.values['present'])}" if "present" in image.values else ""
            for image in prompt.images
        ]
        tiles = [image_tile(prompt, one, folder, words) for one, words in zip(prompt.images, captions, strict=True)]
        rows.append(PageRow(title=prompt.prompt, about="", strips=(ImageStrip(name="", tiles=tuple(tiles)),)))
    return PageSection(id="together", title="All subjects in one image", rows=tuple(rows))


def held_out_section(scores: Scores, folder: Path) -> PageSection:
    """Build the section on runs that were trained without one of the photos."""
    return PageSection(
        id="held-out",
        title="Photos held out",
        tables=(folds_table(scores),),
        rows=tuple(held_out_row(scores, fold, folder) for fold in scores.folds),
    )


def held_out_row(scores: Scores, fold: FoldScores, folder: Path) -> PageRow:
    """Show a held-out photo beside images of the run that was trained without it."""
    each = len(fold.images) // len(scores.prompts)
    generated = [
        ImageTile(
            image=read_thumbnail(folder / file), alt=f"{prompt.prompt}, without {fold.photo}", caption=prompt.prompt
        )
        for file, prompt in zip(fold.images[::each], scores.prompts, strict=True)
    ]
    photo = ImageTile(image=read_thumbnail(folder / fold.thumbnail), alt=fold.photo, caption="")
    return PageRow(
        title=f"without {fold.photo}",
        about=(
            f"similarity to the training photos {format_score(fold.training_similarity)}, "
            f"to the held-out photo {format_score(fold.held_out_similarity)}"
        ),
        strips=(
            ImageStrip(name="held out", tiles=(photo,)),
            ImageStrip(name="generated without it", tiles=tuple(generated[:EXTREMES])),
        ),
    )


def extremes(scores: Scores, folder: Path) -> tuple[PageRow, ...]:
    """Show the best and the worst images by subject fidelity and by prompt fidelity.

    A missing score has no row.
    """
    title = titles([scores])
    rows: list[PageRow] = []
    for name in ("identity", "clip_t"):
        images = [
            (image.values[name], prompt, image)
            for prompt in scores.prompts
            for image in prompt.images
            if name in image.values
        ]
        ranked = sorted(images, key=lambda scored: scored[0], reverse=True)
        count = min(EXTREMES, len(ranked) // 2 or 1)
        if ranked:
            strips = tuple(
                ImageStrip(
                    name=end,
                    tiles=tuple(
                        image_tile(prompt, image, folder, f"{prompt.prompt}: {format_score(value)}")
                        for value, prompt, image in some
                    ),
                )
                for end, some in (("best", ranked[:count]), ("worst", ranked[::-1][:count]))
            )
            rows.append(PageRow(title=f"by {title[name]}", about="", strips=strips))
    return tuple(rows)


def prompt_row(scores: Scores, number: int, folder: Path, base: Sequence[Path]) -> PageRow:
    """Show all images of one prompt, and the base model's where `base` has them."""
    prompt, title = scores.prompts[number], titles([scores])
    tiles = tuple(image_tile(prompt, image, folder, _caption(image, title)) for image in prompt.images)
    strips = [ImageStrip(name="", tiles=tiles)]
    base = base[number * scores.images : (number + 1) * scores.images]
    if base:
        alt = f"{prompt.prompt}, by the base model"
        tiles = tuple(ImageTile(image=read_thumbnail(file), alt=alt, caption="") for file in base)
        strips.append(ImageStrip(name="base model", tiles=tiles))
    about = [f"{title[name]} {format_score(value)}" for name, value in prompt.values.items() if name in title]
    if "base_clip_t" in prompt.values:
        about.append(f"{title['clip_t']} of the base {format_score(prompt.values['base_clip_t'])}")
    return PageRow(title=prompt.prompt, about=", ".join(about), strips=tuple(strips))


def comparison_page(comparison: Comparison, find: Callable[[Scores], Path]) -> Page:
    """Build the page of two runs, or of two groups of runs, with their images side by side.

    `find` maps a run's scores to the folder of its files.
    """
    table = comparison_table(comparison)
    rows = [
        comparison_row((one, other), prompts, find)
        for one, other in zip(comparison.ones, comparison.others, strict=True)
        for prompts in zip(one.prompts, other.prompts, strict=True)
    ]
    return Page(
        title=f"{table.head[1]} and {table.head[2]}",
        about="Images of one prompt and one seed form pairs, so that a hard prompt or a lucky seed cancels.",
        sections=(
            PageSection(id="differences", title="Differences", tables=(table,)),
            PageSection(id="images", title="Side by side", rows=tuple(rows)),
        ),
    )


def comparison_row(
    sides: tuple[Scores, Scores], prompts: tuple[PromptScores, PromptScores], find: Callable[[Scores], Path]
) -> PageRow:
    """Show one prompt's images of two runs, with the differences of their scores."""
    title, (first, second) = titles(sides), prompts
    strips = tuple(
        ImageStrip(
            name=side.name,
            tiles=tuple(image_tile(prompt, image, find(side), _caption(image, title)) for image in prompt.images),
        )
        for side, prompt in zip(sides, prompts, strict=True)
    )
    differences = [
        f"{title[name]} {format_score(first.values[name] - second.values[name])}"
        for name in first.values
        if name in title and name in second.values
    ]
    return PageRow(
        title=first.prompt if first.prompt == second.prompt else f"{first.prompt} | {second.prompt}",
        about=f"first minus second: {', '.join(differences)}" if differences else "",
        strips=strips,
    )


def image_tile(prompt: PromptScores, image: ImageScores, folder: Path, caption: str) -> ImageTile:
    """Build the tile of one image of a run."""
    return ImageTile(
        image=read_thumbnail(folder / image.file), alt=f"{prompt.prompt}, seed {image.seed}", caption=caption
    )


def _caption(image: ImageScores, title: dict[str, str]) -> str:
    """List an image's subject and prompt fidelity."""
    return ", ".join(
        f"{title[name]} {format_score(image.values[name])}" for name in ("identity", "clip_t") if name in image.values
    )
