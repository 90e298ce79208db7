"""The tables and the page of a suite: the paper's table 1, differences with intervals, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from mascot.data.photos import read_photos
from mascot.evaluation.comparison import compare_scores
from mascot.evaluation.score_tables import comparison_table, encoder_notes, format_interval, run_notes
from mascot.evaluation.scores import METRICS, REFERENCES, titles
from mascot.evaluation.scores_page import image_tile
from mascot.experiments.suite import SuiteFolder, SuiteScores
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, thumbnail
from mascot.reports.table import NO_VALUE, Table, format_score

PAPER: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "real images": {"identity": 0.774, "clip_i": 0.885},
        "DreamBooth, Imagen": {"identity": 0.696, "clip_i": 0.812, "clip_t": 0.306},
        "DreamBooth, Stable Diffusion": {"identity": 0.668, "clip_i": 0.803, "clip_t": 0.305},
        "Textual Inversion, Stable Diffusion": {"identity": 0.569, "clip_i": 0.780, "clip_t": 0.255},
    }
)
"""Table 1 of DreamBooth (Ruiz et al. 2023): 30 subjects, 25 prompts, 4 images of each.

Its encoders are DINO ViT-S/16 and CLIP ViT-B/32.
"""

PAPER_NOTE = (
    "compare order and distance with the paper's rows, not single digits: its base and photos are others, "
    "and its encoders are DINO ViT-S/16 and CLIP ViT-B/32"
)

FIDELITY = ("identity", "clip_i", "clip_t")
"""The columns of the paper's table 1."""

SHOWN = 6
"""Images of each subject and variant on the page."""


def paper_table(suite: SuiteScores) -> Table:
    """Build the paper's table 1: means over subjects for photos, base model and variants.

    The paper's own rows follow.
    """
    rows = (
        *mean_rows(suite, FIDELITY),
        *((f"paper: {title}", *(format_score(row.get(name)) for name in FIDELITY)) for title, row in PAPER.items()),
    )
    return Table(
        title=describe_subjects(suite), head=("", *column_titles(suite, FIDELITY)), rows=rows, notes=(PAPER_NOTE,)
    )


def other_table(suite: SuiteScores) -> Table:
    """Build the table of metrics that the paper's table 1 lacks, with the notes on both.

    These metrics show what fidelity may cost: diversity, class drift, copying.
    """
    names = [
        name
        for name in METRICS
        if name not in FIDELITY and any(suite.mean(variant, name) is not None for variant in suite.variants)
    ]
    notes = (*missing_notes(suite), *encoder_notes(suite.of(suite.variants[0])), *shared_notes(suite))
    return Table(
        title=f"other metrics: {describe_subjects(suite)}",
        head=("", *column_titles(suite, names)),
        rows=tuple(mean_rows(suite, names)),
        notes=notes,
    )


def mean_rows(suite: SuiteScores, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Build the rows of means: the references that have one of the metrics, then the variants."""
    first = suite.variants[0]
    references = [
        (title, *(format_interval(suite.mean(first, row[name])) if name in row else NO_VALUE for name in names))
        for title, row in REFERENCES.items()
        if set(names) & set(row)
    ]
    variants = [
        (variant, *(format_interval(suite.mean(variant, name)) for name in names)) for variant in suite.variants
    ]
    return [*references, *variants]


def describe_subjects(suite: SuiteScores) -> str:
    """Describe what the means are over."""
    count = len(suite.subjects)
    if count > 1:
        return f"means over {count} subjects, with 95 % bootstrap intervals over them"
    return "one subject: no intervals"


def column_titles(suite: SuiteScores, names: Sequence[str]) -> list[str]:
    """Return the titles of the metrics' columns."""
    known = titles([scores for variant in suite.variants for scores in suite.of(variant)])
    return [known[name] for name in names]


def missing_notes(suite: SuiteScores) -> list[str]:
    """List failures, subjects that the means leave out, and metrics that are missing."""
    left_out = {suite_run.subject for suite_run in suite.suite_runs} - set(suite.subjects)
    notes = [f"{failure.variant}, {failure.subject}: {failure.reason}" for failure in suite.failures]
    if left_out:
        notes.append(f"left out of the means, as not every row has them: {', '.join(sorted(left_out))}")
    for name, metric in METRICS.items():
        values = [scores.values[name] for scores in suite.scores.values()]
        reasons = [value.reason for value in values if value.value is None]
        if reasons:
            others = "" if len(set(reasons)) == 1 else f" (and {len(reasons) - 1} other runs lack it)"
            notes.append(f"{metric.title}: {reasons[0]}{others}")
    return notes


def shared_notes(suite: SuiteScores) -> list[str]:
    """List the notes that all runs share; those of single runs are in their own files."""
    notes = [set(run_notes([scores])) for variant in suite.variants for scores in suite.of(variant)]
    return sorted(set.intersection(*notes)) if notes else []


def subjects_table(suite: SuiteScores, name: str) -> Table:
    """Build the table of one metric by subject: references that have it, then each variant."""
    references = {title: row[name] for title, row in REFERENCES.items() if name in row}
    rows: list[tuple[str, ...]] = []
    for subject in suite.subjects:
        scores = [suite.scores[variant, subject] for variant in suite.variants]
        values = [scores[0].values[reference] for reference in references.values()]
        values += [one.values[name] for one in scores]
        rows.append((subject, *(format_score(value.value) for value in values)))
    return Table(
        title=f"{column_titles(suite, [name])[0]} by subject",
        head=("subject", *references, *suite.variants),
        rows=tuple(rows),
    )


def difference_tables(suite: SuiteScores) -> list[Table]:
    """Build a table for each pair of variants, paired by subject.

    Variants whose runs have different class nouns are not comparable, and have none.
    """
    tables: list[Table] = []
    for one, other in combinations(suite.variants, 2):
        pairs = list(zip(suite.of(one), suite.of(other), strict=True))
        if not pairs or any(a.class_noun != b.class_noun for a, b in pairs):
            continue
        table = comparison_table(compare_scores(suite.of(one), suite.of(other)))
        head = ("metric", one, other, *table.head[3:])
        tables.append(Table(title=f"{one} minus {other}, paired by subject", head=head, rows=table.rows))
    return tables


def suite_page(suite: SuiteScores, files: SuiteFolder) -> Page:
    """Build the page of a suite: scores, differences, scores by subject, images."""
    by_subject = tuple(subjects_table(suite, name) for name in ("identity", "clip_t"))
    sections = [
        PageSection(id="scores", title="Scores", tables=(paper_table(suite), other_table(suite))),
        PageSection(id="subjects", title="By subject", tables=by_subject),
        PageSection(
            id="images", title="Images", rows=tuple(subject_row(suite, name, files) for name in suite.subjects)
        ),
    ]
    if differences := tuple(difference_tables(suite)):
        section = PageSection(id="differences", title="Differences", lead="Paired by subject.", tables=differences)
        sections.insert(1, section)
    return Page(
        title=f"{len(suite.subjects)} subjects, {', '.join(suite.variants)}",
        about="Every subject is trained by every method, generated in contexts that no photo shows, and scored.",
        sections=tuple(sections),
    )


def subject_row(suite: SuiteScores, subject: str, files: SuiteFolder) -> PageRow:
    """Build the row of a subject: its photos, and each variant's images of the same prompts."""
    suite_runs = {suite_run.variant: suite_run for suite_run in suite.suite_runs if suite_run.subject == subject}
    photos = read_photos([suite_runs[suite.variants[0]].request.photos]).photos[:SHOWN]
    tiles = tuple(ImageTile(image=thumbnail(photo.image), alt=photo.path.name, caption="") for photo in photos)
    strips = [ImageStrip(name="photos", tiles=tiles)]
    for variant in suite.variants:
        prompts, folder = suite.scores[variant, subject].prompts, files.run(suite_runs[variant]).folder
        spread = sorted({(2 * i + 1) * len(prompts) // (2 * SHOWN) for i in range(SHOWN)})
        shown = [prompts[index] for index in spread]
        tiles = tuple(image_tile(prompt, prompt.images[0], folder, prompt.prompt) for prompt in shown)
        strips.append(ImageStrip(name=variant, tiles=tiles))
    return PageRow(title=subject, about="", strips=tuple(strips))


def markdown(table: Table) -> str:
    """Write a table in Markdown, without title and notes."""
    lines = ["| " + " | ".join(row) + " |" for row in (table.head, tuple("---" for _ in table.head), *table.rows)]
    return "\n".join(lines)
