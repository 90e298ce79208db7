"""Make one sheet of the images that runs were diagnosed by, one row for each run.

Usage: `python examples/diagnosis_sheet.py RUN... OUT.png`. The runs must have been diagnosed, by
`mascot train` or `mascot diagnose`, which keep the images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from mascot.data.prompt_templates import class_prompt, fill
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.diagnosis.probe_images import PLAIN_BACKGROUNDS, diagnosis_prompts
from mascot.generation.loading import resolve_adapter
from mascot.protocols import Subject
from mascot.storage.image_files import image_stem
from mascot.storage.run_folder import Run

CELL, LINE, GAP = 92, 30, 8
"""Side of an image, height of a row's text, and space between groups, in pixels."""


def columns(run: Run) -> list[tuple[str, list[str]]]:
    """List the groups of a run's images, as title and beginnings of file names.

    The groups are the subject in contexts and on plain backgrounds, the class, and the token.
    """
    manifest = resolve_adapter(run)[0].manifest
    if manifest is None or manifest.class_noun is None:
        sys.exit(f"{run.folder} does not say what its subject is")
    subject = Subject(token=manifest.token, class_noun=manifest.class_noun)
    contexts = diagnosis_prompts(manifest.class_noun)[:2]
    stems = {
        "in contexts": [image_stem(fill(prompt, subject), 0) for prompt in contexts],
        "on plain backgrounds": [image_stem(fill(prompt, subject), 0) for prompt in PLAIN_BACKGROUNDS],
        f"{class_prompt(manifest.class_noun)}": [
            image_stem(class_prompt(manifest.class_noun), seed) for seed in range(2)
        ],
        f"a photo of {manifest.token}": [image_stem(f"a photo of {manifest.token}", seed) for seed in range(2)],
    }
    return list(stems.items())


def diagnosis_sheet(runs: list[Run]) -> Image.Image:
    """Arrange runs from top to bottom, each with the failure modes that were found."""
    kinds = [columns(run) for run in runs]
    width = sum(len(stems) * CELL + GAP for _, stems in kinds[0])
    sheet = Image.new("RGB", (width, len(runs) * (LINE + CELL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, run in enumerate(runs):
        top, left = row * (LINE + CELL + GAP), 0
        findings = Diagnosis.read(run.diagnosis).findings
        modes = ", ".join(finding.failure_mode for finding in findings) or "no failure mode"
        pen.text((2, top + 1), f"{run.folder.name}: {modes}", fill="black")
        for title, stems in kinds[row]:
            pen.text((left + 2, top + LINE // 2), title, fill="gray")
            for stem in stems:
                image = Image.open(next(run.evaluation.glob(f"{stem}_*.png"))).convert("RGB")
                sheet.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (left, top + LINE))
                left += CELL
            left += GAP
    return sheet


if __name__ == "__main__":
    diagnosis_sheet([Run(Path(name)) for name in sys.argv[1:-1]]).quantize(192).save(sys.argv[-1], optimize=True)
