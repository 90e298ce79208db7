"""The hashes in a header, computed over the bytes of the very file that they stand in.

A hash in a header cannot change the file's layout, as it has a fixed length: the header is laid out
with zeros in its place, and the hash is written over them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mascot.adapters.headers.model_spec import PREFIX
from mascot.storage.tensor_files import replace_header
from mascot.storage.untrusted_files import open_regular

SHA256: Final = f"{PREFIX}hash_sha256"
"""ModelSpec's hash: SHA-256 of everything after the header, as `0x` and lower-case digits."""
MODEL_HASH: Final = "sshs_model_hash"
"""kohya's hash: the same bytes, without `0x`. A1111 shows its first digits."""
LEGACY_HASH: Final = "sshs_legacy_hash"
"""The hash of A1111's first versions: 8 digits of 64 KiB of the file, from 1 MiB on."""
LEGACY_BYTES: Final = slice(0x100000, 0x110000)
PLACES: Final[Mapping[str, str]] = {SHA256: "0x" + "0" * 64, MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}
"""Key -> what stands in its place until the file is whole."""
METADATA: Final = "__metadata__"


def with_places(metadata: Mapping[str, str]) -> dict[str, str]:
    """Add the places of the hashes that belong to a header: ModelSpec's, kohya's, both or none."""
    of_model_spec = any(key.startswith(PREFIX) for key in metadata)
    of_kohya = any(key.startswith("ss_") for key in metadata)
    wanted = [SHA256] * of_model_spec + [MODEL_HASH, LEGACY_HASH] * of_kohya
    return {key: value for key, value in metadata.items() if key not in PLACES} | {key: PLACES[key] for key in wanted}


def fill_hashes(path: Path) -> None:
    """Fill in the hashes of a safetensors file where its header has places for them, in place.

    The file is read in pieces, so it may be larger than the memory.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(LEGACY_BYTES.start)
        legacy = legacy_hash(file.read(LEGACY_BYTES.stop - LEGACY_BYTES.start))
    replace_header(path, filled_header(header, digest, legacy))


def filled_header(header: bytes, digest: str, legacy: str) -> bytes:
    """Put hashes into a header in place of zeros; its length stays the same."""
    values = json.loads(header)
    metadata: dict[str, str] = values.get(METADATA, {})
    found = {SHA256: f"0x{digest}", MODEL_HASH: digest, LEGACY_HASH: legacy}
    if 8 + len(header) > LEGACY_BYTES.start:  # the hash would be one of the bytes that it is computed over
        metadata.pop(LEGACY_HASH, None)
    values[METADATA] = metadata | {key: value for key, value in found.items() if key in metadata}
    text = json.dumps(values, sort_keys=True, separators=(",", ":")).encode().ljust(len(header))
    assert len(text) == len(header), "hashes have the length of their places"
    return text


def legacy_hash(content: bytes) -> str:
    """Hash the bytes LEGACY_BYTES of a file, as A1111's first versions did.

    In a file below 1 MiB these are no bytes at all, there as here.
    """
    return hashlib.sha256(content).hexdigest()[:8]
