"""Replay the study that this project grew from, on the embedded base, and write its tables.

    python benchmarks/study.py --keep runs/study --write docs/study.md

The subject is the bundled owl. Trained runs and measurements are kept in the folder `--keep`, so
that an interrupted call goes on; delete it after a change of the base. `--write` replaces the
tables in a Markdown file, each between two comments with its name. Without it they are printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.study_observations import MISSING, observations_table
from benchmarks.study_runs import RUNS, train_run
from benchmarks.study_scores import (
    ADAPTER_SCALES,
    PROMPTS,
    TEXT_SCALES,
    Owl,
    guidance_scores,
    prompt_scores,
    run_scores,
    scale_scores,
    word_order,
)

Rows = Sequence[Sequence[str]]

MARK = "<!-- {name}: {edge} -->"
"""Comment before and after a table in a Markdown file."""


def runs_table(measured: Mapping[str, Any]) -> str:
    """Tabulate the trained runs at the scales and the guidance that they were trained with."""
    rows = [(one["about"], str(one["step"]), *shares(one)) for one in measured["runs"]]
    return table(("run", "steps", "likeness", "prompt kept", "copying", "score"), rows)


def prompts_table(measured: Mapping[str, Any]) -> str:
    """Tabulate the study's prompts with its knobs, and with those of the starter's preset."""
    rows: list[tuple[str, ...]] = []
    for one in measured["prompts"]:
        study, own, base = one["study"], one["own"], one["base"]
        knobs = f"{one['guidance']:g}, {one['unet_scale']:g}, {one['text_scale']:g}"
        values = [f"{side[key]:.2f}" for key in ("likeness", "prompt_fidelity") for side in (study, own)]
        rows.append((one["prompt"], one["verdict"], knobs, *values, f"{base['prompt_fidelity']:.2f}"))
    head = (
        "prompt",
        "the study saw",
        "its knobs",
        "likeness: its knobs",
        "likeness: preset",
        "CLIP-T: its knobs",
        "CLIP-T: preset",
        "CLIP-T of the base",
    )
    return table(head, rows)


def guidance_table(measured: Mapping[str, Any]) -> str:
    """Tabulate guidance scales."""
    rows = [(f"{one['guidance']:g}", *shares(one)) for one in measured["guidance"]]
    return table(("guidance scale", "likeness", "prompt kept", "copying", "score"), rows)


def scales_table(measured: Mapping[str, Any]) -> str:
    """Tabulate the score over both adapter scales, with likeness and prompt kept behind it."""
    found = {(one["unet_scale"], one["text_scale"]): one for one in measured["scales"]}
    rows = [
        (
            f"**{unet:g}**",
            *(
                f"{one['score']:.2f} ({one['likeness_gain']:.2f}, {one['prompt_kept']:.2f})"
                for one in (found[unet, text] for text in TEXT_SCALES)
            ),
        )
        for unet in ADAPTER_SCALES
    ]
    return table(("UNet scale", *(f"text scale {text:g}" for text in TEXT_SCALES)), rows)


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "observations": lambda measured: table(*observations_table(measured)),
    "runs": runs_table,
    "prompts": prompts_table,
    "guidance": guidance_table,
    "scales": scales_table,
}
"""Name of a table in the Markdown file -> what writes it."""


def shares(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the shares of a measurement."""
    return tuple(f"{one[key]:.2f}" for key in ("likeness_gain", "prompt_kept", "copying", "score"))


def table(head: Sequence[str], rows: Rows) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_tables(text: str, tables: Mapping[str, str]) -> str:
    """Replace each table between its comments.

    Raises:
        ValueError: the text has no such comments.
    """
    for name, written in tables.items():
        begin, end = (MARK.format(name=name, edge=edge) for edge in ("begin", "end"))
        if begin not in text or end not in text:
            raise ValueError(f"there is no {begin} and {end}")
        pattern = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = pattern.sub(lambda _, own=f"{begin}\n\n{written}\n\n{end}": own, text)
    return text


def write_tables(measured: Mapping[str, Any]) -> dict[str, str]:
    """Write all tables; one whose part is not measured yet says so."""
    known = {"observations", *measured}
    return {name: make(measured) if name in known else f"{MISSING.capitalize()}." for name, make in TABLES.items()}


def kept_measurements(keep: Path, images: int, *, quick: bool) -> tuple[Path, dict[str, Any]]:
    """Return the file of the measurements that are kept, and what is in it."""
    file = keep / f"measured_{images}{'_quick' if quick else ''}.json"
    return file, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def measure(keep: Path, images: int, *, quick: bool = False) -> dict[str, Any]:
    """Train and measure everything that is not kept yet; `quick` leaves out all runs but one."""
    file, measured = kept_measurements(keep, images, quick=quick)
    owl, main_run = Owl(images=images), train_run("study", keep / "study")
    parts: dict[str, Callable[[], object]] = {
        "prompts": lambda: prompt_scores(owl, main_run),
        "guidance": lambda: guidance_scores(owl, main_run),
        "scales": lambda: scale_scores(owl, main_run),
        "word_order": lambda: word_order(owl, main_run),
        "runs": lambda: run_scores(
            owl, {name: train_run(name, keep / name) for name in (("study",) if quick else RUNS)}
        ),
    }
    for name, part in parts.items():
        if name not in measured:
            typer.echo(f"measuring {name}", err=True)
            measured[name] = part()
            file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return measured


def main(
    keep: Annotated[Path, typer.Option(help="Folder of the runs and the measurements.")] = Path("runs/study"),
    images: Annotated[int, typer.Option(min=1, help="Images of each prompt and setting.")] = 2,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out the runs that the study's is compared with.")
    ] = False,
    kept: Annotated[bool, typer.Option("--kept", help="Measure nothing, and write what is kept.")] = False,
    write: Annotated[Path | None, typer.Option(help="Markdown file whose tables are replaced.")] = None,
) -> None:
    """Train, measure, and write the tables."""
    measured = kept_measurements(keep, images, quick=quick)[1] if kept else measure(keep, images, quick=quick)
    tables = write_tables(measured)
    if write is None:
        for name, written in tables.items():
            typer.echo(f"{name}\n\n{written}\n")
        return
    write.write_text(replace_tables(write.read_text(encoding="utf-8"), tables), encoding="utf-8")
    typer.echo(f"{write}: {len(tables)} tables, {len(PROMPTS)} prompts")


if __name__ == "__main__":
    typer.run(main)
