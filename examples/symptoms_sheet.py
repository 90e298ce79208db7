"""Put what runs were diagnosed by side by side, a row for each: `python examples/symptoms_sheet.py RUN... OUT.png`.

The runs were trained, or diagnosed with `mascot diagnose`: the pictures are those that it kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from mascot.data.prompt_templates import class_prompt, fill
from mascot.evaluation.diagnosis.findings import Diagnosis
from mascot.evaluation.diagnosis.probe_images import PLAIN, diagnosis_prompts
from mascot.generation.loading import resolve_adapter
from mascot.protocols import Subject
from mascot.storage.image_files import image_stem
from mascot.storage.run_folder import Run

CELL, LINE, GAP = 92, 30, 8


def columns(run: Run) -> list[tuple[str, list[str]]]:
    """Titles, and the beginnings of the files below each: the subject in places and on plain backgrounds, the class, the token."""
    manifest = resolve_adapter(run)[0].manifest
    if manifest is None or manifest.class_noun is None:
        sys.exit(f"{run.folder} does not say what its subject is")
    subject = Subject(token=manifest.token, class_noun=manifest.class_noun)
    places = diagnosis_prompts(manifest.class_noun)[:2]
    stems = {
        "in places": [image_stem(fill(prompt, subject), 0) for prompt in places],
        "on plain backgrounds": [image_stem(fill(prompt, subject), 0) for prompt in PLAIN],
        f"{class_prompt(manifest.class_noun)}": [
            image_stem(class_prompt(manifest.class_noun), seed) for seed in range(2)
        ],
        f"a photo of {manifest.token}": [image_stem(f"a photo of {manifest.token}", seed) for seed in range(2)],
    }
    return list(stems.items())


def symptoms_sheet(runs: list[Run]) -> Image.Image:
    """Runs from top to bottom, with what was found."""
    kinds = [columns(run) for run in runs]
    width = sum(len(stems) * CELL + GAP for _, stems in kinds[0])
    sheet = Image.new("RGB", (width, len(runs) * (LINE + CELL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, run in enumerate(runs):
        top, left = row * (LINE + CELL + GAP), 0
        found = (
            ", ".join(finding.failure_mode for finding in Diagnosis.read(run.diagnosis).findings) or "nothing is wrong"
        )
        pen.text((2, top + 1), f"{run.folder.name}: {found}", fill="black")
        for title, stems in kinds[row]:
            pen.text((left + 2, top + LINE // 2), title, fill="gray")
            for stem in stems:
                file = next(run.evaluation.glob(f"{stem}_*.png"))
                sheet.paste(
                    Image.open(file).convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC), (left, top + LINE)
                )
                left += CELL
            left += GAP
    return sheet


if __name__ == "__main__":
    symptoms_sheet([Run(Path(name)) for name in sys.argv[1:-1]]).quantize(192).save(sys.argv[-1], optimize=True)
