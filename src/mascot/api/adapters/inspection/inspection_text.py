"""An inspection as text: a few lines of facts, tables of parts and blocks, and warnings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from mascot.api.adapters.inspection.file_facts import BlockFacts, EnergyFacts, PartFacts
from mascot.api.adapters.inspection.inspected import Inspection
from mascot.errors import shorten

BAR: Final = 24
"""Width of the longest bar, in letters."""
MOST_BLOCKS: Final = 14
"""Most rows of one kind of block; where there are more, neighbors share a row."""
LONGEST: Final = 76
"""Most letters of a value of the header."""
UNKNOWN: Final = "not known without the base"


def write_json(inspections: Iterable[Inspection]) -> str:
    """Write inspections as a JSON list, with the same facts as the text."""
    values = [dataclasses.asdict(found) | {"parameters": found.parameters} for found in inspections]
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return "".join(sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1] for sign in text)


def write_text(found: Inspection) -> str:
    """Write one inspection for a terminal."""
    sections = [
        [found.path],
        write_pairs(facts_of(found)),
        write_rows(("part", "values", "type"), [(s.part, count(s.parameters), types(s.dtypes)) for s in found.sizes]),
        write_rows(("part", "layers", "kind", "rank", "alpha", "energy"), [part_row(part) for part in found.parts]),
        write_blocks(found.blocks),
        write_pairs([(one.key, statement_text(one.value, one.verdict, one.truth)) for one in found.statements]),
        [f"warning: {warning}" for warning in found.warnings],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def facts_of(found: Inspection) -> list[tuple[str, str]]:
    """List the facts of the first lines, each with its name."""
    facts: list[tuple[str, object]] = [
        ("what", found.what),
        ("family", found.architecture),
        ("format", found.format),
        ("method", found.method),
        ("trigger", found.trigger),
        ("words", ", ".join(f"{word.token} ({rows_text(word.rows, word.widths)})" for word in found.words)),
        ("base", " ".join(filter(None, (found.base, found.base_identity and f"({found.base_identity[:16]})")))),
        ("steps", found.steps),
        ("kept steps", ", ".join(map(str, found.kept_steps))),
        ("resolution", found.resolution),
        ("prediction", found.prediction),
        ("knobs", knobs_text(found.knobs or {})),
        ("values", f"{count(found.parameters)} in {types(found.dtypes)}" if found.dtypes else None),
        ("size", size_text(found.bytes)),
    ]
    return [(name, str(value)) for name, value in facts if value not in {None, ""}]


def rows_text(rows: int, widths: Mapping[str, int]) -> str:
    """Write the size of a word: `2 rows of 768 and 1280`."""
    return f"{rows} row{'s' * (rows != 1)} of {' and '.join(map(str, widths.values()))}"


def knobs_text(knobs: Mapping[str, Any]) -> str:
    """Write knobs in one line."""
    return ", ".join(f"{name} {value}" for name, value in knobs.items() if value not in {None, ""})


def statement_text(value: str, verdict: str, truth: str) -> str:
    """Write one entry of the header, and whether it is right."""
    shown = shorten(" ".join(value.split()), LONGEST)
    return {"right": f"{shown}  (right)", "wrong": f"{shown}  (wrong: {shorten(truth, LONGEST)})"}.get(verdict, shown)


def part_row(part: PartFacts) -> tuple[str, ...]:
    """Write the row of a part."""
    kinds = " and ".join(part.kinds) or "-"
    conv = f" ({part.convolutions} convolutions)" if part.convolutions else ""
    return part.part, f"{part.layers}{conv}", kinds, spread(part.ranks), spread(part.alphas), energy_text(part.energy)


def spread(values: Sequence[float]) -> str:
    """Write one value, or the smallest and the largest."""
    if not values:
        return "-"
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def energy_text(energy: EnergyFacts) -> str:
    """Write an energy; that of a DoRA is not known."""
    known = number_text(energy.energy)
    if not energy.unknown:
        return known
    return f"{known} and {energy.unknown} layers {UNKNOWN}" if energy.energy else UNKNOWN


def number_text(value: float) -> str:
    """Write a number of four digits, or a large one with commas."""
    return f"{value:,.0f}" if 1e4 <= value < 1e9 else f"{value:.4g}"


def write_blocks(blocks: Sequence[BlockFacts]) -> list[str]:
    """Write the table of energies by block, with a bar for each."""
    joined = join_blocks(blocks)
    largest = max((block.energy.energy for block in joined), default=0.0)
    rows = [
        (
            block.block if block.block == block.part else f"{block.part} {block.block}",
            str(block.layers),
            energy_text(block.energy),
            "█" * round(BAR * block.energy.energy / largest) if largest > 0 else "",
        )
        for block in joined
    ]
    return write_rows(("block", "layers", "energy", ""), rows)


def join_blocks(blocks: Sequence[BlockFacts]) -> list[BlockFacts]:
    """Join neighbors where a kind of block has more than MOST_BLOCKS of them."""
    kinds: dict[tuple[str, str], list[BlockFacts]] = {}
    for block in blocks:
        kinds.setdefault((block.part, block.block.partition(".")[0]), []).append(block)
    joined: list[BlockFacts] = []
    for (part, _), own in kinds.items():
        step = -(-len(own) // MOST_BLOCKS)
        for first in range(0, len(own), step):
            run = own[first : first + step]
            last = run[-1].block.partition(".")[2]
            name = run[0].block if len(run) == 1 else f"{run[0].block} to {last}"
            energy = EnergyFacts(
                energy=sum(block.energy.energy for block in run), unknown=sum(block.energy.unknown for block in run)
            )
            joined.append(BlockFacts(part=part, block=name, layers=sum(block.layers for block in run), energy=energy))
    return joined


def write_pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write names and values in two columns."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"  {name.ljust(width)}  {value}" for name, value in pairs]


def write_rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Write a table in columns; no rows give no lines."""
    if not rows:
        return []
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def count(number: int) -> str:
    """Write a number with commas."""
    return f"{number:,}"


def types(dtypes: Mapping[str, int]) -> str:
    """Write types of values, the commonest first."""
    return " and ".join(sorted(dtypes, key=lambda name: -dtypes[name]))


def size_text(size: int) -> str:
    """Write a number of bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
