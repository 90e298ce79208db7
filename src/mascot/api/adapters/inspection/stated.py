"""What a header says, and whether it is true: hashes, rank, alpha and the kind of base."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mascot.storage.untrusted_files import open_regular

SHOWN: Final = (
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_v2",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_resolution",
    "ss_num_train_images",
    "ss_steps",
    "ss_max_train_steps",
    "ss_epoch",
    "ss_learning_rate",
    "ss_training_comment",
    "sshs_model_hash",
    "sshs_legacy_hash",
    "software",
    "name",
    "step",
)
"""Keys of a header that are shown, besides those of ModelSpec."""
SPEC: Final = "modelspec."
HASHES: Final = (f"{SPEC}hash_sha256", "sshs_model_hash")
"""Keys of SHA-256 hashes of everything behind the header."""
NOTHING: Final = hashlib.sha256(b"").hexdigest()
MANY: Final = "Dynamic"
"""kohya's word for a rank or an alpha that differs between layers."""
ARCHITECTURES: Final[Mapping[str, re.Pattern[str]]] = {
    "sd1": re.compile(r"stable-diffusion-v1|sd_v1|sd_1"),
    "sd2": re.compile(r"stable-diffusion-v2|sd_v2|sd_2"),
    "sdxl": re.compile(r"stable-diffusion-xl|sdxl"),
    "sd3": re.compile(r"stable-diffusion-v?3|sd3"),
    "flux": re.compile(r"flux"),
}
"""Architecture -> how ModelSpec and kohya's scripts call it, in lower case."""

Verdict = Literal["right", "wrong", "not checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One entry of a header."""

    key: str
    value: str
    verdict: Verdict = "not checked"
    truth: str = ""
    """What is true instead, where the value is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the tensors say."""

    architecture: str | None
    ranks: tuple[int, ...]
    """The different ranks of the denoiser's linear layers, or of the text encoders' without one."""
    alphas: tuple[float, ...]


def tensor_hash(path: Path) -> str:
    """Hash everything behind the header: SHA-256, in hexadecimal digits.

    Raises:
        UnreadableFile: the file cannot be read.
    """
    with open_regular(path) as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_statements(path: Path, metadata: Mapping[str, str], truth: Truth) -> list[Statement]:
    """List what a header says that people read, each with a verdict.

    Raises:
        UnreadableFile: the file cannot be read.
    """
    shown = [key for key in metadata if key.startswith(SPEC)] + [key for key in SHOWN if key in metadata]
    digest = tensor_hash(path) if any(key in metadata for key in HASHES) else ""
    return [judge(key, metadata[key], truth, digest) for key in shown]


def judge(key: str, value: str, truth: Truth, digest: str) -> Statement:
    """Compare one entry with the tensors."""
    if key in HASHES:
        said = value.lower().removeprefix("0x")
        why = "the hash of nothing; it is " if said == NOTHING else ""
        return compared(key, value, is_right=said == digest, truth=f"{why}{digest}")
    if key in {"ss_network_dim", "ss_network_alpha"} and truth.ranks:
        found = tuple(map(float, truth.ranks)) if key.endswith("dim") else truth.alphas
        stated = " and ".join(f"{one:g}" for one in found[:5])
        return compared(key, value, is_right=value == MANY or is_one_of(value, found), truth=stated)
    if truth.architecture is None:
        return Statement(key=key, value=value)
    if key == "ss_v2":
        is_right = (value == "True") == (truth.architecture == "sd2")
        return compared(key, value, is_right=is_right, truth=truth.architecture)
    kinds = (f"{SPEC}architecture", "ss_base_model_version")
    said = next((name for name, pattern in ARCHITECTURES.items() if pattern.search(value.lower())), None)
    if key not in kinds or said is None:
        return Statement(key=key, value=value)
    return compared(key, value, is_right=said == truth.architecture, truth=truth.architecture)


def is_one_of(value: str, numbers: Sequence[float]) -> bool:
    """Tell whether a text is one of some numbers."""
    try:
        return float(value) in numbers
    except ValueError:
        return False


def compared(key: str, value: str, *, is_right: bool, truth: str) -> Statement:
    """Make a statement that is right, or wrong with what is true."""
    return Statement(key=key, value=value, verdict="right" if is_right else "wrong", truth="" if is_right else truth)
