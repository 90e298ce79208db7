"""The choice of the device that computes."""

from __future__ import annotations

import torch

from mascot.errors import UserError


def choose_device(requested: str, remedy: str = "give --set device=cpu") -> str:
    """Return the requested device, or the best one there is for `auto` (cuda, then mps, then cpu).

    Args:
        requested: `auto`, `cpu`, `cuda` or `mps`.
        remedy: What the user can do where the device is missing; the end of the error message.

    Raises:
        UserError: the requested device is missing.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if requested == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[requested]:
        raise UserError(f"this machine has no {requested} device; {remedy}.")
    return requested
