"""A suite in words and pictures: one table in the form of the paper's, differences with intervals, a row of pictures for every subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from mascot.data.photos import read_photos
from mascot.evaluation.comparison import compare_scores
from mascot.evaluation.score_tables import comparison_table, described, judged, remarks
from mascot.evaluation.scores import METRICS, REFERENCES, Scores, titles
from mascot.evaluation.scores_page import tile
from mascot.experiments.suite import SuiteFolder, SuiteScores
from mascot.reports.page import ImageStrip, ImageTile, Page, PageRow, PageSection, reduced
from mascot.reports.table import NO_VALUE, Table, digits

PAPER: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "real images": {"identity": 0.774, "clip_i": 0.885},
    "DreamBooth, Imagen": {"identity": 0.696, "clip_i": 0.812, "clip_t": 0.306},
    "DreamBooth, Stable Diffusion": {"identity": 0.668, "clip_i": 0.803, "clip_t": 0.305},
    "Textual Inversion, Stable Diffusion": {"identity": 0.569, "clip_i": 0.780, "clip_t": 0.255},
})  # fmt: skip
"""Table 1 of the paper (Ruiz et al. 2023): 30 subjects, 25 prompts, 4 pictures; judged by DINO ViT-S/16 and CLIP ViT-B/32."""


PAPER_NOTE = (
    "the paper's rows are for order and distance, not for single digits: its base and photos are others, and its encoders are DINO "
    "ViT-S/16 and CLIP ViT-B/32"
)


FIDELITY = ("identity", "clip_i", "clip_t")
"""The columns of the paper's table 1."""


SHOWN = 6
"""Pictures of each subject and arm on the page."""


def paper_table(suite: SuiteScores) -> Table:
    """The paper's table 1: a row for the photos, the untouched base and each arm, means over the subjects, and the paper's own rows."""
    rows = (
        *arm_rows(suite, FIDELITY),
        *((f"paper: {title}", *(digits(row.get(name)) for name in FIDELITY)) for title, row in PAPER.items()),
    )
    return Table(title=over(suite), head=("", *named(suite, FIDELITY)), rows=rows, notes=(PAPER_NOTE,))


def other_table(suite: SuiteScores) -> Table:
    """What the paper's table 1 leaves out and can be bought with: variety, drift, copying; and all that has to be read with both."""
    names = [
        name
        for name in METRICS
        if name not in FIDELITY and any(suite.mean(variant, name) is not None for variant in suite.variants)
    ]
    notes = (*missing_notes(suite), *judged(suite.of(suite.variants[0])), *remarks_of(suite))
    return Table(
        title=f"besides: {over(suite)}",
        head=("", *named(suite, names)),
        rows=tuple(arm_rows(suite, names)),
        notes=notes,
    )


def arm_rows(suite: SuiteScores, names: Sequence[str]) -> list[tuple[str, ...]]:
    """References that have one of the numbers, then the arms."""
    first = suite.variants[0]
    references = [
        (title, *(described(suite.mean(first, known[name])) if name in known else NO_VALUE for name in names))
        for title, known in REFERENCES.items()
        if set(names) & set(known)
    ]
    return [
        *references,
        *((variant, *(described(suite.mean(variant, name)) for name in names)) for variant in suite.variants),
    ]


def over(suite: SuiteScores) -> str:
    """What means are over."""
    count = len(suite.subjects)
    return (
        f"means over {count} subjects, with 95 % bootstrap intervals over them"
        if count > 1
        else "one subject: no intervals"
    )


def named(suite: SuiteScores, names: Sequence[str]) -> list[str]:
    """The columns' titles."""
    every = titles([one for variant in suite.variants for one in suite.of(variant)])
    return [every[name] for name in names]


def missing_notes(suite: SuiteScores) -> list[str]:
    """Which subjects are left out of the means, which numbers are missing, and why."""
    left_out = {suite_run.subject for suite_run in suite.suite_runs} - set(suite.subjects)
    said = [f"{failure.variant}, {failure.subject}: {failure.sentence}" for failure in suite.failures]
    if left_out:
        said.append(f"left out of the means, as not every row has them: {', '.join(sorted(left_out))}")
    for name, metric in METRICS.items():
        reasons = [one.values[name].reason for one in suite.scores.values() if not has(one, name)]
        if reasons:
            alike = "" if len(set(reasons)) == 1 else f" (likewise in {len(reasons) - 1} other runs)"
            said.append(f"{metric.title}: {reasons[0]}{alike}")
    return said


def has(scores: Scores, name: str) -> bool:
    """Whether a run has a number."""
    return scores.values[name].value is not None


def remarks_of(suite: SuiteScores) -> list[str]:
    """What all runs have to be read with; what differs from subject to subject stands in their own files."""
    every = [set(remarks([one])) for variant in suite.variants for one in suite.of(variant)]
    return sorted(set.intersection(*every)) if every else []


def subjects_table(suite: SuiteScores, name: str) -> Table:
    """One metric, a row for each subject: its photos and the untouched base where they have it, then each arm."""
    known = {title: row[name] for title, row in REFERENCES.items() if name in row}
    rows: list[tuple[str, ...]] = []
    for subject in suite.subjects:
        first, *_ = scores = [suite.scores[variant, subject] for variant in suite.variants]
        values = [first.values[reference] for reference in known.values()] + [one.values[name] for one in scores]
        rows.append((subject, *(digits(value.value) for value in values)))
    return Table(
        title=f"{named(suite, [name])[0]}, subject by subject",
        head=("subject", *known, *suite.variants),
        rows=tuple(rows),
    )


def difference_tables(suite: SuiteScores) -> list[Table]:
    """Each pair of arms, paired by subject; those that were asked about different things (another class noun) have none."""
    tables: list[Table] = []
    for one, other in combinations(suite.variants, 2):
        pairs = (suite.of(one), suite.of(other))
        if not suite.subjects or any(a.class_noun != b.class_noun for a, b in zip(*pairs, strict=True)):
            continue
        table = comparison_table(compare_scores(*pairs))
        tables.append(
            Table(
                title=f"{one} minus {other}, paired by subject",
                head=("metric", one, other, *table.head[3:]),
                rows=table.rows,
            )
        )
    return tables


def suite_page(suite: SuiteScores, place: SuiteFolder) -> Page:
    """Everything on one page."""
    differences = tuple(difference_tables(suite))
    sections = [
        PageSection(id="scores", title="Scores", tables=(paper_table(suite), other_table(suite))),
        PageSection(
            id="subjects",
            title="Subject by subject",
            tables=tuple(subjects_table(suite, name) for name in ("identity", "clip_t")),
        ),
        PageSection(
            id="pictures", title="Pictures", rows=tuple(subject_row(suite, name, place) for name in suite.subjects)
        ),
    ]
    if differences:
        sections.insert(
            1, PageSection(id="differences", title="Differences", lead="Paired by subject.", tables=differences)
        )
    return Page(
        title=f"{len(suite.subjects)} subjects, {', '.join(suite.variants)}",
        about="Every subject is taught in every way, drawn in contexts that no photo shows, and scored by the encoders named below.",
        sections=tuple(sections),
    )


def subject_row(suite: SuiteScores, subject: str, place: SuiteFolder) -> PageRow:
    """A subject's photos, and what each arm draws for the same prompts and seeds."""
    suite_runs = {suite_run.variant: suite_run for suite_run in suite.suite_runs if suite_run.subject == subject}
    photos = read_photos([suite_runs[suite.variants[0]].request.photos]).photos[:SHOWN]
    strips = [
        ImageStrip(
            name="photos",
            tiles=tuple(ImageTile(image=reduced(photo.image), words=photo.path.name, below="") for photo in photos),
        )
    ]
    for variant in suite.variants:
        prompts = suite.scores[variant, subject].prompts
        places = sorted({(2 * i + 1) * len(prompts) // (2 * SHOWN) for i in range(SHOWN)})
        tiles = tuple(
            tile(prompts[k], prompts[k].images[0], place.run(suite_runs[variant]).folder, prompts[k].prompt)
            for k in places
        )
        strips.append(ImageStrip(name=variant, tiles=tiles))
    return PageRow(title=subject, about="", strips=tuple(strips))


def markdown(table: Table) -> str:
    """A table as documents show it."""
    lines = ["| " + " | ".join(row) + " |" for row in (table.head, tuple("---" for _ in table.head), *table.rows)]
    return "\n".join(lines)
