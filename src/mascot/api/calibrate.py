"""`calibrate`: score real photos against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mascot.data.photos import read_photos
from mascot.evaluation.evaluator import Calibration
from mascot.evaluation.evaluator import calibrate as calibrate_photos
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.generation.loading import DEVICE_REMEDY
from mascot.models.devices import choose_device
from mascot.models.starter import EMBEDDED


def calibrate(
    folders: Sequence[str | Path],
    *,
    base: str = EMBEDDED,
    identity: str | None = None,
    clip: str | None = None,
    device: str = "auto",
) -> tuple[list[Calibration], EncoderPair]:
    """Score the photos of each folder against each other: the upper limit of a run's likeness.

    Returns one calibration for each folder, and the encoders. These are the ones that `evaluate`
    uses for `base`, unless `identity` or `clip` names another.

    Raises:
        UserError: a folder has no usable photo, or an encoder cannot be used.
    """
    photos = [read_photos([Path(folder)]).photos for folder in folders]
    encoders = load_encoders(base, identity, clip, choose_device(device, DEVICE_REMEDY))
    rows = [calibrate_photos(str(folder), subject, encoders) for folder, subject in zip(folders, photos, strict=True)]
    return rows, encoders
