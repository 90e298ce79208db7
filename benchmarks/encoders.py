"""How far the starter's judges can be trusted: its CLIP and its identity encoder on subjects that no training picture showed.

    python -m starter_recipe collect             # the drawings, once
    python benchmarks/encoders.py --out encoders.json --sheet sheet.png

Prints markdown tables: captions found among 100, subjects found in galleries that punish looking at anything else, the likeness of
real photos beside the paper's, and whether scores fall when the subject, the place or the noun is blended away. Every picture is drawn
here from the held-out drawings of `objects.toml`, decided by the seed. Intervals are bootstraps over the subjects (over the scenes for
captions), 95 %. A benchmark reports: what a law's verdict says changes nothing about the exit code.

Shape suffixes: B pictures, N scenes, A steps of a blend, D width of an embedding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # the recipe is no installed package; it stands beside this folder

from benchmarks.sights import (
    ALPHAS,
    QUERIES,
    RANKS,
    SCENES,
    SIDE,
    SWAPPED,
    Condition,
    Ladder,
    Subject,
    distinct_scenes,
    empty_pictures,
    make_conditions,
    make_ladders,
    plain_view,
    read_subjects,
    world_of,
)
from mascot.errors import UserError
from mascot.evaluation.metrics.image_encoders import read_clip, read_identity_encoder
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.models import starter
from mascot.storage.atomic_write import atomic_write
from starter_recipe.world import World

RESAMPLES = 2000
TIE = 1e-9
"""Cosines nearer than this are equal; what is equal is drawn by lot."""
PAPER = {"identity": 0.774, "clip": 0.885}
"""Real photos against real photos, DINO and CLIP-I (Ruiz et al. 2023, table 1)."""


class Judge(Protocol):
    """Whatever turns pictures into unit vectors."""

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        """Embed pictures. Shape B x D, unit length."""
        ...


class Reader(Judge, Protocol):
    """Whatever turns prompts into vectors of the same space too."""

    def embed_prompts(self, prompts: Sequence[str], /) -> Tensor:
        """Embed prompts. Shape B x D, unit length."""
        ...


class Estimate(TypedDict):
    """A mean and the interval in which 95 % of its bootstrapped values lie, as JSON has them."""

    mean: float
    low: float
    high: float


# What is measured


def bootstrap(groups: Mapping[str, Sequence[float]], seed: int) -> Estimate:
    """Average the groups' means; resample whole groups for the interval, the same one for the same seed."""
    means = np.array([np.mean(values) for values in groups.values()])
    drawn = np.random.default_rng([seed, 95]).choice(means, (RESAMPLES, len(means))).mean(axis=1)
    mean, (low, high) = float(means.mean()), np.quantile(drawn, (0.025, 0.975))
    return Estimate(mean=mean, low=min(mean, float(low)), high=max(mean, float(high)))


def ranked(scores_NN: Tensor, rank: int) -> list[float]:
    """Say of each row whether its diagonal entry is among the best `rank`: 1 or 0, or the odds where it ties with others."""
    own_N1 = scores_NN.diagonal()[:, None]
    above_N = (scores_NN > own_N1 + TIE).sum(1)
    tied_N = ((scores_NN - own_N1).abs() <= TIE).sum(1)
    return ((rank - above_N) / tied_N).clamp(0, 1).tolist()


def hits(condition: Condition, embeddings_BD: Tensor) -> dict[str, list[float]]:
    """Say of each subject's queries whether the nearest gallery picture shows it: 1 or 0, or the odds among equally near ones."""
    found: dict[str, list[float]] = {}
    unit_BD = torch.nn.functional.normalize(embeddings_BD.double(), dim=-1)
    for query, sample_cache in condition.trials:
        cosines = unit_BD[sample_cache] @ unit_BD[query]
        nearest = (cosines >= cosines.max() - TIE).nonzero()[:, 0].tolist()
        right = [condition.owners[sample_cache[place]] == condition.owners[query] for place in nearest]
        found.setdefault(condition.owners[query], []).append(sum(right) / len(right))
    return found


def chance(condition: Condition) -> float:
    """Average the share of right pictures in the queries' galleries: what an encoder gets that tells nothing apart."""
    shares = [
        np.mean([condition.owners[place] == condition.owners[query] for place in sample_cache])
        for query, sample_cache in condition.trials
    ]
    return float(np.mean(shares))


def calibrate(photos: Mapping[str, Tensor], floors: Mapping[str, Tensor], seed: int) -> dict[str, Estimate]:
    """Compare each subject's photos with one another, with the other subjects' and with pictures that show nothing.

    Gives the rows `real`, `others`, `real minus others` and one for each of `floors`. Each subject needs two photos.
    """
    rows: dict[str, dict[str, list[float]]] = {row: {} for row in ("real", "others", "real minus others", *floors)}
    for name, own_BD in photos.items():
        real = real_similarity(own_BD)
        assert real is not None, f"{name} has a single photo"
        others = float(np.mean([similarity(own_BD, other_BD) for other, other_BD in photos.items() if other != name]))
        empty = [similarity(floor_BD, own_BD) for floor_BD in floors.values()]
        for row, value in zip(rows.values(), (real, others, real - others, *empty), strict=True):
            row[name] = [value]
    return {row: bootstrap(groups, seed) for row, groups in rows.items()}


def summarise(curves: Mapping[str, list[list[float]]], seed: int) -> dict[str, Any]:
    """Average the scores at each of ALPHAS (`means`), say how many single steps fall (`falling`) and whether every mean step does."""
    means = [
        bootstrap({name: [curve[i] for curve in own] for name, own in curves.items()}, seed) for i in range(len(ALPHAS))
    ]
    steps = [after < before for own in curves.values() for curve in own for before, after in pairwise(curve)]
    falls = all(after["mean"] < before["mean"] for before, after in pairwise(means))
    return {"means": means, "falling": float(np.mean(steps)), "steps": len(steps), "every_mean_falls": falls}


# What it is measured on


def measure_captions(clip: Reader, scenes: Sequence[tuple[Image.Image, str]], seed: int) -> dict[str, Any]:
    """Look up each picture's caption and each caption's picture: shares found within RANKS, both ways."""
    pictures_ND = clip.embed([image for image, _ in scenes]).double()
    scores_NN = pictures_ND @ clip.embed_prompts([caption for _, caption in scenes]).double().T
    found: dict[str, Any] = {}
    for way, scores in {"image to text": scores_NN, "text to image": scores_NN.T}.items():
        for rank in RANKS:
            groups = {str(number): [hit] for number, hit in enumerate(ranked(scores, rank))}
            found.setdefault(way, {})[f"rank {rank}"] = bootstrap(groups, seed) | {"chance": rank / len(scenes)}
    return found


def measure_retrieval(encoders: Mapping[str, Judge], conditions: Sequence[Condition], seed: int) -> dict[str, Any]:
    """Find the subjects in every condition with every encoder."""
    found: dict[str, Any] = {}
    for condition in conditions:
        shares = {
            name: bootstrap(hits(condition, judge.embed(condition.images)), seed) for name, judge in encoders.items()
        }
        found[condition.name] = {"queries": len(condition.trials), "chance": chance(condition), **shares}
    return found


def measure_calibration(encoders: Mapping[str, Judge], seed: int) -> dict[str, dict[str, Estimate]]:
    """Compare the packaged photos of the held-out subjects with every encoder."""
    empty, photos = empty_pictures(seed), {name: subject.photos for name, subject in starter.subjects().items()}
    found: dict[str, dict[str, Estimate]] = {}
    for name, judge in encoders.items():
        real = {
            subject: judge.embed([Image.open(path).convert("RGB") for path in own]) for subject, own in photos.items()
        }
        found[name] = calibrate(real, {floor: judge.embed(own) for floor, own in empty.items()}, seed)
    return found


def climb(
    judge: Judge, ladders: Sequence[Ladder], score: Callable[[Tensor, Ladder], float]
) -> dict[str, list[list[float]]]:
    """Score every picture of every ladder, given as 1 x D: subject -> its curves."""
    embeddings_BAD = judge.embed([image for ladder in ladders for image in ladder.images]).unflatten(
        0, (-1, len(ALPHAS))
    )
    curves: dict[str, list[list[float]]] = {}
    for ladder, steps_AD in zip(ladders, embeddings_BAD, strict=True):
        curves.setdefault(ladder.subject, []).append([score(step_D[None], ladder) for step_D in steps_AD])
    return curves


def measure_sensitivity(
    *,
    identity: Judge,
    clip: Reader,
    subjects: Sequence[Subject],
    ladders: Mapping[str, list[Ladder]],
    views: int,
    seed: int,
) -> dict[str, Any]:
    """Follow the scores as the subject, the place and the noun are blended away."""
    rng = np.random.default_rng([seed, 5])
    real = {subject.name: identity.embed([plain_view(subject, rng) for _ in range(views)]) for subject in subjects}
    captions = sorted({ladder.caption for name in ("place", "noun") for ladder in ladders[name]})
    asked = dict(zip(captions, clip.embed_prompts(captions), strict=True))

    def likeness(picture_1D: Tensor, ladder: Ladder) -> float:
        return similarity(picture_1D, real[ladder.subject])

    def fidelity(picture_1D: Tensor, ladder: Ladder) -> float:
        return prompt_fidelity(picture_1D, asked[ladder.caption][None])

    return {
        "identity, subject into a look-alike": summarise(climb(identity, ladders["subject"], likeness), seed),
        "CLIP-T, place into another place": summarise(climb(clip, ladders["place"], fidelity), seed),
        "CLIP-T, noun into another noun": summarise(climb(clip, ladders["noun"], fidelity), seed),
    }


def judge_laws(results: Mapping[str, Any]) -> dict[str, bool]:
    """Say of each law whether it holds; `above` means that the whole interval is."""
    laws: dict[str, bool] = {}
    for world, ways in results["captions"].items():
        ranks = [rank for way in ways.values() for rank in way.values()]
        laws[f"captions of {world} are found above chance, both ways"] = all(
            rank["low"] > rank["chance"] + TIE for rank in ranks
        )
    for encoder, rows in results["calibration"].items():
        for name, found in results["retrieval"].items():
            laws[f"{encoder} finds the subject above chance: {name}"] = found[encoder]["low"] > found["chance"] + TIE
        swapped = results["retrieval"][SWAPPED][encoder]
        laws[f"{encoder} goes by the subject, not by the backdrop: more than half of the swaps are found"] = (
            swapped["low"] > 0.5
        )
        laws[f"{encoder} holds photos of one subject nearer than photos of two"] = rows["real minus others"]["low"] > 0
        for floor in ("noise", "plain colours"):
            laws[f"{encoder} holds {floor} farther from a subject than another subject"] = (
                rows[floor]["mean"] < rows["others"]["mean"]
            )
    for name, curve in results["sensitivity"].items():
        laws[f"falls at every step of the blend on average: {name}"] = curve["every_mean_falls"]
    return laws


# Telling it


def shown(estimate: Estimate) -> str:
    """Write an estimate as `0.500 (0.400 to 0.600)`."""
    return f"{estimate['mean']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set a markdown table under its title."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([f"\n### {title}\n", *lines])


def caption_table(captions: Mapping[str, Any]) -> str:
    """Set the table of the captions."""
    columns = [(f"rank {rank}", f"chance {rank / SCENES:g}") for rank in RANKS]
    rows = [
        [world, way, *(shown(ranks[rank]) for rank, _ in columns)]
        for world, ways in captions.items()
        for way, ranks in ways.items()
    ]
    header = ["scenes", "way", *(f"{rank} ({odds})" for rank, odds in columns)]
    return table(f"The right one among {SCENES} scenes", header, rows)


def retrieval_table(retrieval: Mapping[str, Any]) -> str:
    """Set the table of the subjects found."""
    rows = [
        [name, shown(found["identity"]), shown(found["clip"]), f"{found['chance']:.3f}", str(found["queries"])]
        for name, found in retrieval.items()
    ]
    return table(
        "Nearest gallery picture shows the right subject",
        ["condition", "identity", "CLIP images", "chance", "queries"],
        rows,
    )


def calibration_table(calibration: Mapping[str, Any]) -> str:
    """Set the calibration table, with the paper's row for real photos."""
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
        "plain colours": "real x plain colours",
    }
    rows += [
        [names.get(row, row), *(shown(calibration[encoder][row]) for encoder in PAPER)]
        for row in calibration["identity"]
    ]
    return table("Calibration on the packaged photos", ["row", "identity", "CLIP-I"], rows)


def sensitivity_table(sensitivity: Mapping[str, Any]) -> str:
    """Set the table of the blends."""
    rows = [
        [name, *(shown(mean) for mean in curve["means"]), f"{curve['falling']:.3f} of {curve['steps']}"]
        for name, curve in sensitivity.items()
    ]
    return table("Blending away", ["score", *(f"alpha {alpha:g}" for alpha in ALPHAS), "single steps that fall"], rows)


def tell(results: Mapping[str, Any]) -> str:
    """Write all results as markdown."""
    encoders = [f"- {name}: {line}" for name, line in results["encoders"].items()]
    alike = results["look_alikes"]
    few, many = min(alike.values()), max(alike.values())
    note = f"\n{sum(alike.values())} look-alikes of {len(alike)} subjects, {few} to {many} each."
    verdicts = [f"- {law}: {'yes' if holds else 'NO'}" for law, holds in results["laws"].items()]
    return "\n".join([
        *encoders, f"- seed {results['seed']}, {results['views']} gallery views of each subject",
        caption_table(results["captions"]), retrieval_table(results["retrieval"]), note, calibration_table(results["calibration"]),
        sensitivity_table(results["sensitivity"]), "\n### Verdicts\n", *verdicts,
    ])  # fmt: skip


def example_of(condition: Condition, number: int) -> tuple[str, list[Image.Image]]:
    """Pick one trial of a condition: a title, then its query, a right gallery picture and wrong ones."""
    query, sample_cache = condition.trials[number % len(condition.trials)]
    owner = condition.owners[query]
    one_each = {condition.owners[place]: place for place in sample_cache}
    chosen = [query, one_each.pop(owner), *one_each.values()]
    return f"{condition.name}: {owner}; query, right, wrong", [condition.images[place] for place in chosen]


def contact_sheet(rows: Sequence[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Lay out rows of up to seven pictures, each row under its title."""
    tile, line = 2 * SIDE, 16
    sheet = Image.new("RGB", (7 * tile, len(rows) * (tile + line)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, images) in enumerate(rows):
        top = number * (tile + line)
        pen.text((4, top + 2), title, fill="black")
        for place, image in enumerate(images[:7]):
            sheet.paste(image.resize((tile, tile), Image.Resampling.NEAREST), (place * tile, top + line))
    return sheet


def read_worlds(work: Path, seed: int) -> tuple[World, World, list[Subject]]:
    """Make the known drawings' world, the held-out subjects' world, and the subjects; raises UserError where drawings are missing."""
    modules = work / "npm" / "node_modules"
    missing = next((path for path in (modules, work / "drawings.npz") if not path.exists()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing: run `python -m starter_recipe collect --work {work}` first.")
    known = World(work / "drawings.npz", SIDE, seed, named=0.0)
    subjects = read_subjects(modules, known)
    applied = {key: known.drawings[key] for _, _, keys in known.accessories for key in keys}
    return known, world_of(subjects, applied, seed), subjects


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; draw the sheet where one is wanted. Returns the results as JSON has them."""
    identity, clip = (
        read_identity_encoder(options.identity or starter.identity_folder()),
        read_clip(options.clip or starter.clip_folder()),
    )
    known, unseen, subjects = read_worlds(options.work, options.seed)
    encoders: dict[str, Judge] = {"identity": identity, "clip": clip}
    scenes = {
        name: distinct_scenes(world, np.random.default_rng([options.seed, 1, number]))
        for number, (name, world) in enumerate({"held-out subjects": unseen, "known drawings": known}.items())
    }
    conditions = make_conditions(subjects, unseen, options.views, options.seed)
    ladders = make_ladders(subjects, options.seed)
    if options.sheet is not None:
        rows = [example_of(condition, number * QUERIES) for number, condition in enumerate(conditions)]
        rows += [(f"{name} blended away: {own[0].caption}", own[0].images) for name, own in ladders.items()]
        rows += [
            (f"{name}: {', '.join(c for _, c in own[:7])}", [image for image, _ in own[:7]])
            for name, own in scenes.items()
        ]
        with atomic_write(options.sheet) as path:
            contact_sheet(rows).save(path, "PNG")
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
    return results | {"laws": judge_laws(results)}


def main() -> None:
    """Print the tables; write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("starter_work"),
        help="where `python -m starter_recipe collect` left the drawings",
    )
    parser.add_argument("--clip", type=Path, help="a CLIP's folder (default: the packaged one)")
    parser.add_argument("--identity", type=Path, help="an identity encoder's folder (default: the packaged one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=6, help="gallery pictures of each subject")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--sheet", type=Path, help="draw an example of every test here, as PNG")
    options = parser.parse_args()
    if options.views < 1 or options.seed < 0:
        parser.error("--views must be at least 1 and --seed at least 0")
    try:
        results = run(options)
        print(tell(results))
        if options.out is not None:
            with atomic_write(options.out) as path:
                path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except UserError as error:
        raise SystemExit(f"{error}") from error


if __name__ == "__main__":
    main()
