"""The pages that tell scores: one HTML file each with everything inside, which opens offline.

This file decides what is said; `scores.html.jinja` beside it decides how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mascot.evaluation.comparison import Comparison
from mascot.evaluation.score_tables import comparison_table, folds_table, means_table, prompts_table, runs_table
from mascot.evaluation.scores import FoldScores, ImageScores, PromptScores, Scores, titles
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, shown
from mascot.reports.table import digits

EXTREMES = 6
"""Pictures in each strip of the best and of the worst."""


def scores_page(scores: Scores, folder: Path, base: Sequence[Path] = ()) -> Page:
    """Show one run: tables, the best and the worst pictures, every prompt.

    `folder` is where the scores' files lie; `base` are the base's pictures, by prompt and then by seed, or none.
    """
    return Page(
        title=f"{scores.subject} on {scores.base}: scores",
        about="What the adapter draws where no photo shows the subject, scored by the encoders named below.",
        sections=(
            PageSection(id="scores", title="Scores", tables=(runs_table([scores]), means_table([scores]))),
            *([held_out_section(scores, folder)] if scores.folds else []),
            PageSection(
                id="extremes",
                title="Best and worst",
                lead="Of all pictures, by one score each.",
                rows=extremes(scores, folder),
            ),
            PageSection(id="table", title="Prompt by prompt", tables=(prompts_table(scores),)),
            PageSection(
                id="prompts",
                title="All pictures",
                lead="The untouched base, beside them, was asked the same with the class noun alone." if base else "",
                rows=tuple(prompt_row(scores, number, folder, base) for number in range(len(scores.prompts))),
            ),
        ),
    )


def held_out_section(scores: Scores, folder: Path) -> PageSection:
    """What runs draw that never saw one of the photos."""
    return PageSection(
        id="held-out",
        title="Photos held out",
        tables=(folds_table(scores),),
        rows=tuple(held_out_row(scores, fold, folder) for fold in scores.folds),
    )


def held_out_row(scores: Scores, fold: FoldScores, folder: Path) -> PageRow:
    """A photo that was held out, beside what a run draws that never saw it."""
    each = len(fold.images) // len(scores.prompts)
    generated = [
        ImageTile(image=shown(folder / file), words=f"{prompt.prompt}, without {fold.photo}", below=prompt.prompt)
        for file, prompt in zip(fold.images[::each], scores.prompts, strict=True)
    ]
    return PageRow(
        title=f"without {fold.photo}",
        about=f"likeness to the others {digits(fold.likeness)}, to the photo held out {digits(fold.generalisation)}",
        strips=(
            ImageStrip(
                name="held out", tiles=(ImageTile(image=shown(folder / fold.shown), words=fold.photo, below=""),)
            ),
            ImageStrip(name="drawn without it", tiles=tuple(generated[:EXTREMES])),
        ),
    )


def extremes(scores: Scores, folder: Path) -> tuple[PageRow, ...]:
    """The best and the worst pictures by likeness, and by how they follow the prompt; a score that there is not has no row."""
    named = titles([scores])
    rows: list[PageRow] = []
    for name in ("identity", "clip_t"):
        images = [
            (image.values[name], prompt, image)
            for prompt in scores.prompts
            for image in prompt.images
            if name in image.values
        ]
        ranked = sorted(images, key=lambda found: found[0], reverse=True)
        count = min(EXTREMES, len(ranked) // 2 or 1)
        if ranked:
            strips = tuple(
                ImageStrip(
                    name=place,
                    tiles=tuple(
                        tile(prompt, image, folder, f"{prompt.prompt}: {digits(value)}")
                        for value, prompt, image in some
                    ),
                )
                for place, some in (("best", ranked[:count]), ("worst", ranked[::-1][:count]))
            )
            rows.append(PageRow(title=f"by {named[name]}", about="", strips=strips))
    return tuple(rows)


def prompt_row(scores: Scores, number: int, folder: Path, base: Sequence[Path]) -> PageRow:
    """All pictures of one prompt, and the base's."""
    prompt, named = scores.prompts[number], titles([scores])
    strips = [
        ImageStrip(name="", tiles=tuple(tile(prompt, image, folder, _values(image, named)) for image in prompt.images))
    ]
    base = base[number * scores.images : (number + 1) * scores.images]
    if base:
        words = f"{prompt.prompt}, by the untouched base"
        strips.append(
            ImageStrip(
                name="untouched base", tiles=tuple(ImageTile(image=shown(file), words=words, below="") for file in base)
            )
        )
    about = [f"{named[name]} {digits(value)}" for name, value in prompt.values.items() if name in named]
    if "base_clip_t" in prompt.values:
        about.append(f"{named['clip_t']} of the base {digits(prompt.values['base_clip_t'])}")
    return PageRow(title=prompt.prompt, about=", ".join(about), strips=tuple(strips))


def comparison_page(comparison: Comparison, find: Callable[[Scores], Path]) -> Page:
    """Show two runs, or two groups of runs, with their pictures side by side; `find` tells where a run's files lie."""
    table = comparison_table(comparison)
    rows: list[PageRow] = []
    for one, other in zip(comparison.ones, comparison.others, strict=True):
        named = titles([one, other])
        for first, second in zip(one.prompts, other.prompts, strict=True):
            strips = tuple(
                ImageStrip(
                    name=side.name,
                    tiles=tuple(tile(prompt, image, find(side), _values(image, named)) for image in prompt.images),
                )
                for side, prompt in ((one, first), (other, second))
            )
            differences = [
                f"{named[name]} {digits(first.values[name] - second.values[name])}"
                for name in first.values
                if name in named and name in second.values
            ]
            title = first.prompt if first.prompt == second.prompt else f"{first.prompt} | {second.prompt}"
            rows.append(
                PageRow(
                    title=title,
                    about=f"first minus second: {', '.join(differences)}" if differences else "",
                    strips=strips,
                )
            )
    return Page(
        title=f"{table.head[1]} and {table.head[2]}",
        about="Pictures of one prompt and one seed are pairs: what makes a prompt hard, or a seed lucky, cancels.",
        sections=(
            PageSection(id="differences", title="Differences", tables=(table,)),
            PageSection(id="pictures", title="Side by side", rows=tuple(rows)),
        ),
    )


def tile(prompt: PromptScores, image: ImageScores, folder: Path, below: str) -> ImageTile:
    """One picture of a run."""
    return ImageTile(image=shown(folder / image.file), words=f"{prompt.prompt}, seed {image.seed}", below=below)


def _values(image: ImageScores, named: dict[str, str]) -> str:
    return ", ".join(
        f"{named[name]} {digits(image.values[name])}" for name in ("identity", "clip_t") if name in image.values
    )
