"""TODO models.devices."""

from __future__ import annotations

import torch

from mascot.errors import UserError


def choose_device(wanted: str, remedy: str = "give --set device=cpu") -> str:
    """Turn `auto` into the best device there is.

    Raises:
        UserError: the wanted one is not there; `remedy` is what its user can do.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[wanted]:
        raise UserError(f"this machine has no {wanted} device; {remedy}.")
    return wanted
