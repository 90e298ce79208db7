"""Markdown tables and the contact sheet of the encoders' benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from benchmarks.encoder_scores import BlendScores, CaptionScores, Estimate
from benchmarks.encoder_test_images import ALPHAS, RANKS, SCENES, SIDE, Condition

PAPER = {"identity": 0.774, "clip": 0.885}
"""Similarity of real photos to real photos, DINO and CLIP-I (Ruiz et al. 2023, table 1)."""


def format_estimate(estimate: Estimate) -> str:
    """Format an estimate as `0.500 (0.400 to 0.600)`."""
    return f"{estimate['mean']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with a title."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([f"\n### {title}\n", *lines])


def caption_table(captions: Mapping[str, CaptionScores]) -> str:
    """Format the table of the captions found."""
    columns = [(f"rank {rank}", f"chance {rank / SCENES:g}") for rank in RANKS]
    rows = [
        [world, way, *(format_estimate(ranks[rank]) for rank, _ in columns)]
        for world, ways in captions.items()
        for way, ranks in ways.items()
    ]
    header = ["scenes", "way", *(f"{rank} ({odds})" for rank, odds in columns)]
    return table(f"The right one among {SCENES} scenes", header, rows)


def retrieval_table(retrieval: Mapping[str, Any]) -> str:
    """Format the table of the subjects found."""
    rows = [
        [
            name,
            format_estimate(found["identity"]),
            format_estimate(found["clip"]),
            f"{found['chance']:.3f}",
            str(found["queries"]),
        ]
        for name, found in retrieval.items()
    ]
    header = ["condition", "identity", "CLIP images", "chance", "queries"]
    return table("Nearest gallery image shows the right subject", header, rows)


def calibration_table(calibration: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Format the calibration table, with the paper's row for real photos."""
    rows = [
        [
            "real x real, the paper's encoders and photos",
            f"{PAPER['identity']:.3f} (DINO)",
            f"{PAPER['clip']:.3f} (CLIP-I)",
        ]
    ]
    names = {
        "real": "real x real",
        "others": "real x other subjects",
        "noise": "real x noise",
        "plain colors": "real x plain colors",
    }
    rows += [
        [names.get(row, row), *(format_estimate(calibration[encoder][row]) for encoder in PAPER)]
        for row in calibration["identity"]
    ]
    return table("Calibration on the packaged photos", ["row", "identity", "CLIP-I"], rows)


def sensitivity_table(sensitivity: Mapping[str, BlendScores]) -> str:
    """Format the table of the blends."""
    rows = [
        [name, *(format_estimate(mean) for mean in curve["means"]), f"{curve['falling']:.3f} of {curve['steps']}"]
        for name, curve in sensitivity.items()
    ]
    return table("Blending away", ["score", *(f"alpha {alpha:g}" for alpha in ALPHAS), "single steps that fall"], rows)


def format_results(results: Mapping[str, Any]) -> str:
    """Format all results as Markdown."""
    encoders = [f"- {name}: {line}" for name, line in results["encoders"].items()]
    alike = results["look_alikes"]
    few, many = min(alike.values()), max(alike.values())
    note = f"\n{sum(alike.values())} look-alikes of {len(alike)} subjects, {few} to {many} each."
    verdicts = [f"- {law}: {'yes' if holds else 'NO'}" for law, holds in results["laws"].items()]
    return "\n".join(
        [
            *encoders,
            f"- seed {results['seed']}, {results['views']} gallery views of each subject",
            caption_table(results["captions"]),
            retrieval_table(results["retrieval"]),
            note,
            calibration_table(results["calibration"]),
            sensitivity_table(results["sensitivity"]),
            "\n### Verdicts\n",
            *verdicts,
        ]
    )


def example_of(condition: Condition, number: int) -> tuple[str, list[Image.Image]]:
    """Return one trial of a condition: its title, query, a right gallery image and wrong ones."""
    query, gallery = condition.trials[number % len(condition.trials)]
    owner = condition.owners[query]
    one_each = {condition.owners[index]: index for index in gallery}
    chosen = [query, one_each.pop(owner), *one_each.values()]
    return f"{condition.name}: {owner}; query, right, wrong", [condition.images[index] for index in chosen]


def contact_sheet(rows: Sequence[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Lay out rows of up to seven images, each row under its title."""
    tile, line = 2 * SIDE, 16
    sheet = Image.new("RGB", (7 * tile, len(rows) * (tile + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, images) in enumerate(rows):
        top = number * (tile + line)
        pen.text((4, top + 2), title, fill="black")
        for column, image in enumerate(images[:7]):
            sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (column * tile, top + line))
    return sheet
