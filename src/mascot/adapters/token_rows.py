"""Trained token embeddings in an adapter file: the names of their rows.

Shape suffixes: N embedding rows of a token, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from mascot.errors import UserError

BUNDLE = "bundle_emb."
"""Prefix of rows' names in a file that holds more than one token's; the token and a dot follow.

A1111 and ComfyUI read this form.
"""
ENCODERS = ("clip_l", "clip_g")
"""Tensor names of two text encoders' rows in a file, in the encoders' order."""


def file_keys(parts: Iterable[str], token: str) -> dict[str, str]:
    """Map each text encoder to the name of its rows in a file.

    The name is the token itself where there is one text encoder, else one of ENCODERS.
    """
    names = tuple(parts)
    return dict.fromkeys(names, token) if len(names) == 1 else dict(zip(names, ENCODERS, strict=True))


def rows_to_file(rows: Mapping[str, Tensor], token: str) -> dict[str, Tensor]:
    """Copy each text encoder's rows under their name in a file, float32, to the CPU.

    A method that writes more tensors may put a prefix before these names.
    """
    keys = file_keys(rows, token)
    return {keys[part]: rows_ND.detach().float().cpu().clone().contiguous() for part, rows_ND in rows.items()}


def rows_from_file(tensors: Mapping[str, Tensor], token: str, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy rows from a file by text encoder; the inverse of `rows_to_file`.

    The copies have the dtypes and devices of `initial`, and must have its shapes.

    Raises:
        UserError: names or shapes differ from those of this base model.
    """
    keys = file_keys(initial, token)
    need = {keys[part]: tuple(rows_ND.shape) for part, rows_ND in initial.items()}
    have = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if need != have:
        found = ", ".join(f"{key} {shape}" for key, shape in list(have.items())[:3]) or "nothing"
        wanted = ", ".join(f"{key} {shape}" for key, shape in need.items())
        raise UserError(
            f"this adapter does not fit the base: it holds {found}, and {wanted} is needed; "
            "use the base it was trained on."
        )
    return {part: tensors[keys[part]].to(rows_ND).clone() for part, rows_ND in initial.items()}
