"""Device placement, mixed precision and trackers, through Hugging Face accelerate."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from accelerate import Accelerator

MIXED_PRECISION: Final = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Precision of a recipe -> accelerate's name for it."""


def open_accelerator(precision: str, *, device: str, folder: Path) -> Accelerator:
    """Make the accelerator of a run.

    Args:
        precision: A key of MIXED_PRECISION.
        device: `cpu` forces the CPU; otherwise accelerate chooses.
        folder: Where TensorBoard's files go, if TensorBoard is installed.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import ProjectConfiguration

    # accelerate keeps one global state; a second run in this process may have another precision.
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return Accelerator(
        mixed_precision=MIXED_PRECISION[precision],
        cpu=device == "cpu",
        log_with="tensorboard" if tensorboard_is_installed() else None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder)),
    )


def tensorboard_is_installed() -> bool:
    """Tell whether the extra `trackers` is installed."""
    return find_spec("tensorboard") is not None
