"""TODO cli.sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mascot.api.find_token import find_token
from mascot.api.sweep import draw_knob_grid, sweep
from mascot.cli.console import quiet_libraries, show_rows, show_table
from mascot.errors import UserError
from mascot.evaluation.selection import token_choice
from mascot.experiments.leaderboard_page import leaderboard_table
from mascot.experiments.search_space import ValueRange, parse_over
from mascot.generation.loading import resolve_adapter
from mascot.models.devices import choose_device
from mascot.recipe.overrides import merge, parse_overrides, read_toml
from mascot.storage.atomic_write import fresh_path


def sweep_visibly(
    file: Path, over: Sequence[str], overrides: Sequence[str], *, trials: int | None, by: str, images: int, prompt: str | None, engine: str,
    address: str | None, out: Path | None,
) -> None:  # fmt: skip
    """Sweep, tell each run as it ends, and print the leaderboard."""
    quiet_libraries()
    console = Console()
    values = merge(read_toml(file), parse_overrides(overrides))

    def watch(phase: str, facts: Any) -> None:
        if phase == "points":
            console.print(f"{facts} runs", markup=False)
        elif phase == "entry":
            said = facts.failure or ", ".join(f"{name} {score.mean:.3f}" for name, score in facts.scores.items() if score.mean is not None)
            console.print(f"{facts.label}: {said}", markup=False)
        elif phase in {"leaderboard", "grid", "page"}:
            console.print(f"{phase}: {facts}", markup=False, soft_wrap=True)

    folder = out or Path("runs") / f"sweep-{file.stem}"
    shown = {} if prompt is None else {"prompt": prompt}
    board = sweep(
        values, parse_over(over), out=folder, by=by, trials=trials, images=images, engine=engine, address=address, progress=watch, **shown
    )
    show_table(console, leaderboard_table(board, metrics=(board.by,)))  # all other metrics are in the file and on the page


def turn_visibly(where: Path, over: Sequence[str], *, prompt: str | None, out: Path | None) -> None:
    """Draw a grid of knobs, and print where it is."""
    quiet_libraries()
    choices = parse_over(over)
    listed = {key: values for key, values in choices.items() if not isinstance(values, ValueRange)}
    if len(listed) < len(choices):
        raise UserError("knobs are drawn at the values that are given; write them with commas, such as guidance=3,5,9.")
    _, path = resolve_adapter(where)
    target = out or fresh_path(path.parent, "knobs", ".png")
    shown = {} if prompt is None else {"prompt": prompt}
    print(draw_knob_grid(where, listed, out=target, **shown))  # noqa: T201 - the command's output


def token_visibly(base: str, *, count: int, candidates: int, seed: int) -> None:
    """Find tokens, and print each with its numbers."""
    quiet_libraries()
    console = Console()
    findings = find_token(base, count=count, candidates=candidates, seed=seed, device=choose_device("auto"))
    show_rows(console, f"words that mean little to {base}, the least first", token_choice.rows_of(findings))
