"""Measure how reliable the starter's CLIP and identity encoder are on held-out subjects.

    python -m starter_training collect             # the drawings, once
    python benchmarks/encoders.py --out encoders.json --sheet sheet.png

No training image shows these subjects. Prints Markdown tables: captions found among 100; subjects
found in galleries where attention to anything else fails; the similarity of real photos beside the
paper's; and whether scores fall when the subject, the place or the noun is blended away. All images
are composed here from the held-out drawings of `objects.toml`, decided by the seed. Intervals are
95 % bootstraps over the subjects, or over the scenes for captions. The exit code does not depend on
the verdicts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # starter_training is in the checkout alone

from benchmarks.encoder_scores import (
    ImageEncoder,
    check_laws,
    measure_calibration,
    measure_captions,
    measure_retrieval,
    measure_sensitivity,
)
from benchmarks.encoder_tables import contact_sheet, example_of, format_results
from benchmarks.encoder_test_images import (
    QUERIES,
    SIDE,
    Condition,
    Ladder,
    Subject,
    distinct_scenes,
    make_conditions,
    make_ladders,
    read_subjects,
    world_of,
)
from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.models import starter
from mascot.storage.atomic_write import atomic_write
from starter_training.scenes.world import World

Scenes = list[tuple[Image.Image, str]]
"""Images and their captions."""


def read_worlds(work: Path, seed: int) -> tuple[World, World, list[Subject]]:
    """Return the world of the known drawings, that of the held-out subjects, and the subjects.

    Raises:
        UserError: the drawings have not been collected.
    """
    modules = work / "npm" / "node_modules"
    missing = next((path for path in (modules, work / "drawings.npz") if not path.exists()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing: run `python -m starter_training collect --work {work}` first.")
    known = World(work / "drawings.npz", SIDE, seed, named=0.0)
    subjects = read_subjects(modules, known)
    accessories = {key: known.drawings[key] for _, _, keys in known.accessories for key in keys}
    return known, world_of(subjects, accessories, seed), subjects


def write_sheet(
    path: Path,
    conditions: Sequence[Condition],
    ladders: Mapping[str, list[Ladder]],
    scenes: Mapping[str, Scenes],
) -> None:
    """Write a contact sheet with one row for each test."""
    rows = [example_of(condition, number * QUERIES) for number, condition in enumerate(conditions)]
    rows += [(f"{name} blended away: {own[0].caption}", own[0].images) for name, own in ladders.items()]
    for name, own in scenes.items():
        captions = ", ".join(caption for _, caption in own[:7])
        rows.append((f"{name}: {captions}", [image for image, _ in own[:7]]))
    with atomic_write(path) as temporary:
        contact_sheet(rows).save(temporary, "PNG")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, write the sheet if requested, and return the results for JSON."""
    identity = read_identity_encoder(options.identity or starter.identity_folder())
    clip = read_clip(options.clip or starter.clip_folder())
    known, unseen, subjects = read_worlds(options.work, options.seed)
    encoders: dict[str, ImageEncoder] = {"identity": identity, "clip": clip}
    scenes = {
        name: distinct_scenes(world, np.random.default_rng([options.seed, 1, number]))
        for number, (name, world) in enumerate({"held-out subjects": unseen, "known drawings": known}.items())
    }
    conditions = make_conditions(subjects, unseen, options.views, options.seed)
    ladders = make_ladders(subjects, options.seed)
    if options.sheet is not None:
        write_sheet(options.sheet, conditions, ladders, scenes)
    results: dict[str, Any] = {
        "encoders": {"identity": identity.describe(), "clip": clip.describe()},
        "seed": options.seed,
        "views": options.views,
        "look_alikes": {subject.name: len(subject.look_alikes) for subject in subjects},
        "captions": {name: measure_captions(clip, own, options.seed) for name, own in scenes.items()},
        "retrieval": measure_retrieval(encoders, conditions, options.seed),
        "calibration": measure_calibration(encoders, options.seed),
        "sensitivity": measure_sensitivity(
            identity=identity, clip=clip, subjects=subjects, ladders=ladders, views=options.views, seed=options.seed
        ),
    }
    return results | {"laws": check_laws(results)}


def main() -> None:
    """Print the tables and write the requested files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("starter_work"), help="folder with the drawings that the step collect wrote"
    )
    parser.add_argument("--clip", type=Path, help="folder of a CLIP (default: the packaged one)")
    parser.add_argument("--identity", type=Path, help="folder of an identity encoder (default: the packaged one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=6, help="gallery images of each subject")
    parser.add_argument("--out", type=Path, help="write the numbers to this file, as JSON")
    parser.add_argument("--sheet", type=Path, help="write an example of every test to this file, as PNG")
    options = parser.parse_args()
    if options.views < 1 or options.seed < 0:
        parser.error("--views must be at least 1 and --seed at least 0")
    try:
        results = run(options)
        print(format_results(results))
        if options.out is not None:
            with atomic_write(options.out) as path:
                path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main()
