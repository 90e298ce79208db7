"""Scores of encoders on test images: retrieval, calibration, and sensitivity to blends.

Shape suffixes: B images, N scenes, A steps of a blend, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.encoder_test_images import (
    ALPHAS,
    RANKS,
    SWAPPED,
    Condition,
    Ladder,
    Subject,
    empty_images,
    plain_view,
)
from mascot.evaluation.metrics.prompt_fidelity import prompt_fidelity
from mascot.evaluation.metrics.subject_fidelity import real_similarity, similarity
from mascot.models import starter

RESAMPLES = 2000
"""Bootstrap resamples of each interval."""
TIE = 1e-9
"""Cosines nearer than this count as equal."""


class ImageEncoder(Protocol):
    """Embeds images as unit vectors."""

    def embed(self, images: Sequence[Image.Image], /) -> Tensor:
        """Embed images. Shape B x D, unit length."""
        ...


class PromptEncoder(ImageEncoder, Protocol):
    """Embeds images and prompts in one space."""

    def embed_prompts(self, prompts: Sequence[str], /) -> Tensor:
        """Embed prompts. Shape B x D, unit length."""
        ...


class Estimate(TypedDict):
    """A mean and its 95 % bootstrap interval, as written to JSON."""

    mean: float
    low: float
    high: float


class RankEstimate(Estimate):
    """The share of right ones within a rank, and the share by chance."""

    chance: float


class BlendScores(TypedDict):
    """The scores along blends, as written to JSON."""

    means: list[Estimate]
    """The mean score at each of `ALPHAS`."""
    falling: float
    """Share of the single steps that fall."""
    steps: int
    """Number of single steps."""
    every_mean_falls: bool
    """Whether every step of the mean falls."""


CaptionScores = dict[str, dict[str, RankEstimate]]
"""Way (`image to text` or `text to image`) -> rank -> estimate."""


def bootstrap(groups: Mapping[str, Sequence[float]], seed: int) -> Estimate:
    """Average the groups' means; the interval resamples whole groups, reproducibly by the seed."""
    means = np.array([np.mean(values) for values in groups.values()])
    resampled = np.random.default_rng([seed, 95]).choice(means, (RESAMPLES, len(means))).mean(axis=1)
    mean, (low, high) = float(means.mean()), np.quantile(resampled, (0.025, 0.975))
    return Estimate(mean=mean, low=min(mean, float(low)), high=max(mean, float(high)))


def ranked(scores_NN: Tensor, rank: int) -> list[float]:
    """Return for each row whether its diagonal entry is among the best `rank`: 1 or 0.

    Where it ties with others, the value is the chance.
    """
    own_N1 = scores_NN.diagonal()[:, None]
    above_N = (scores_NN > own_N1 + TIE).sum(1)
    tied_N = ((scores_NN - own_N1).abs() <= TIE).sum(1)
    return ((rank - above_N) / tied_N).clamp(0, 1).tolist()


def hits(condition: Condition, embeddings_BD: Tensor) -> dict[str, list[float]]:
    """Return for each subject's queries whether the nearest gallery image shows it: 1 or 0.

    Where several are equally near, the value is the share of right ones.
    """
    found: dict[str, list[float]] = {}
    unit_BD = torch.nn.functional.normalize(embeddings_BD.double(), dim=-1)
    for query, gallery in condition.trials:
        cosines = unit_BD[gallery] @ unit_BD[query]
        nearest = (cosines >= cosines.max() - TIE).nonzero()[:, 0].tolist()
        right = [condition.owners[gallery[index]] == condition.owners[query] for index in nearest]
        found.setdefault(condition.owners[query], []).append(sum(right) / len(right))
    return found


def chance(condition: Condition) -> float:
    """Return the score of an encoder that distinguishes nothing: the mean share of right images."""
    shares = [
        np.mean([condition.owners[index] == condition.owners[query] for index in gallery])
        for query, gallery in condition.trials
    ]
    return float(np.mean(shares))


def calibrate(photos: Mapping[str, Tensor], floors: Mapping[str, Tensor], seed: int) -> dict[str, Estimate]:
    """Compare each subject's photos with one another, with other subjects' and with empty images.

    Args:
        photos: subject -> embeddings of at least two photos.
        floors: row -> embeddings of images that show no subject.
        seed: decides the intervals.

    Returns:
        The rows `real`, `others`, `real minus others` and one for each of `floors`.
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


def summarize(curves: Mapping[str, list[list[float]]], seed: int) -> BlendScores:
    """Summarize the scores along blends; `curves` maps each subject to its curves."""
    means = [
        bootstrap({name: [curve[i] for curve in own] for name, own in curves.items()}, seed) for i in range(len(ALPHAS))
    ]
    steps = [after < before for own in curves.values() for curve in own for before, after in pairwise(curve)]
    falls = all(after["mean"] < before["mean"] for before, after in pairwise(means))
    return BlendScores(means=means, falling=float(np.mean(steps)), steps=len(steps), every_mean_falls=falls)


def measure_captions(clip: PromptEncoder, scenes: Sequence[tuple[Image.Image, str]], seed: int) -> CaptionScores:
    """Search captions by image and images by caption; return the shares found within `RANKS`."""
    images_ND = clip.embed([image for image, _ in scenes]).double()
    scores_NN = images_ND @ clip.embed_prompts([caption for _, caption in scenes]).double().T
    found: CaptionScores = {}
    for way, scores in {"image to text": scores_NN, "text to image": scores_NN.T}.items():
        for rank in RANKS:
            groups = {str(number): [hit] for number, hit in enumerate(ranked(scores, rank))}
            found.setdefault(way, {})[f"rank {rank}"] = RankEstimate(
                **bootstrap(groups, seed), chance=rank / len(scenes)
            )
    return found


def measure_retrieval(
    encoders: Mapping[str, ImageEncoder], conditions: Sequence[Condition], seed: int
) -> dict[str, Any]:
    """Search the subjects in every condition with every encoder."""
    found: dict[str, Any] = {}
    for condition in conditions:
        shares = {
            name: bootstrap(hits(condition, encoder.embed(condition.images)), seed)
            for name, encoder in encoders.items()
        }
        found[condition.name] = {"queries": len(condition.trials), "chance": chance(condition), **shares}
    return found


def measure_calibration(encoders: Mapping[str, ImageEncoder], seed: int) -> dict[str, dict[str, Estimate]]:
    """Compare the packaged photos of the held-out subjects with every encoder."""
    empty, photos = empty_images(seed), {name: subject.photos for name, subject in starter.subjects().items()}
    found: dict[str, dict[str, Estimate]] = {}
    for name, encoder in encoders.items():
        real = {
            subject: encoder.embed([Image.open(path).convert("RGB") for path in own]) for subject, own in photos.items()
        }
        found[name] = calibrate(real, {floor: encoder.embed(own) for floor, own in empty.items()}, seed)
    return found


def score_ladders(
    encoder: ImageEncoder, ladders: Sequence[Ladder], score: Callable[[Tensor, Ladder], float]
) -> dict[str, list[list[float]]]:
    """Score every image of every ladder; `score` reads its embedding (1 x D).

    Returns:
        Subject -> its curves.
    """
    images = [image for ladder in ladders for image in ladder.images]
    embeddings_BAD = encoder.embed(images).unflatten(0, (-1, len(ALPHAS)))
    curves: dict[str, list[list[float]]] = {}
    for ladder, steps_AD in zip(ladders, embeddings_BAD, strict=True):
        curves.setdefault(ladder.subject, []).append([score(step_D[None], ladder) for step_D in steps_AD])
    return curves


def measure_sensitivity(
    *,
    identity: ImageEncoder,
    clip: PromptEncoder,
    subjects: Sequence[Subject],
    ladders: Mapping[str, list[Ladder]],
    views: int,
    seed: int,
) -> dict[str, BlendScores]:
    """Score images as the subject, the place and the noun are blended away.

    Args:
        identity: scores the blends of subjects.
        clip: scores the blends of places and nouns.
        subjects: have `views` reference views each.
        ladders: the blends of `make_ladders`.
        views: reference views of each subject.
        seed: decides views and intervals.
    """
    rng = np.random.default_rng([seed, 5])
    real = {subject.name: identity.embed([plain_view(subject, rng) for _ in range(views)]) for subject in subjects}
    captions = sorted({ladder.caption for name in ("place", "noun") for ladder in ladders[name]})
    embedded = dict(zip(captions, clip.embed_prompts(captions), strict=True))

    def subject_score(image_1D: Tensor, ladder: Ladder) -> float:
        return similarity(image_1D, real[ladder.subject])

    def prompt_score(image_1D: Tensor, ladder: Ladder) -> float:
        return prompt_fidelity(image_1D, embedded[ladder.caption][None])

    return {
        "identity, subject into a look-alike": summarize(
            score_ladders(identity, ladders["subject"], subject_score), seed
        ),
        "CLIP-T, place into another place": summarize(score_ladders(clip, ladders["place"], prompt_score), seed),
        "CLIP-T, noun into another noun": summarize(score_ladders(clip, ladders["noun"], prompt_score), seed),
    }


def check_laws(results: Mapping[str, Any]) -> dict[str, bool]:
    """Return for each law whether it holds; `above` means that the whole interval is above."""
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
        laws[f"{encoder} follows the subject, not the backdrop: more than half of the swaps are found"] = (
            swapped["low"] > 0.5
        )
        laws[f"{encoder} places photos of one subject nearer than photos of two"] = rows["real minus others"]["low"] > 0
        for floor in ("noise", "plain colors"):
            laws[f"{encoder} places {floor} farther from a subject than another subject"] = (
                rows[floor]["mean"] < rows["others"]["mean"]
            )
    for name, curve in results["sensitivity"].items():
        laws[f"falls at every step of the blend on average: {name}"] = curve["every_mean_falls"]
    return laws
