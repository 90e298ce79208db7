"""Laws of `notebooks/mascot.ipynb`: it is stripped, and what a person edits stands in one cell.

That it runs is tested by `make notebook`.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import mascot

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "mascot.ipynb"


def cells(kind: str) -> dict[str, str]:
    """The source of each cell of a kind, by the cell's name."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return {cell["id"]: "".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind}


def trees() -> dict[str, ast.Module]:
    """The code of each cell; lines that IPython alone reads do nothing here."""
    return {name: ast.parse(re.sub(r"(?m)^( *)%.*$", r"\1pass", source)) for name, source in cells("code").items()}


def traces(content: dict[str, Any]) -> list[str]:
    """What an execution leaves in a notebook."""
    found = [key for key in content["metadata"] if key not in {"kernelspec", "language_info"}]
    executed = [
        cell["id"]
        for cell in content["cells"]
        if cell["metadata"] or cell.get("outputs") or cell.get("execution_count") is not None
    ]
    return found + executed


def test_outputs_are_stripped() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert traces(content) == []
    assert content["metadata"]["language_info"] == {"name": "python"}
    content["cells"][2]["outputs"] = [{"output_type": "stream", "text": "x"}]
    assert traces(content) == [content["cells"][2]["id"]]


def test_only_one_cell_is_meant_to_be_changed() -> None:
    settings = {
        target.id
        for name, tree in trees().items()
        for node in tree.body
        if name == "settings" and isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert settings >= {"PHOTOS", "CLASS_NOUN", "BASE", "OUT", "PROMPTS", "GUIDANCE", "UNET_SCALE", "TEXT_SCALE"}
    assert all(isinstance(node, ast.Assign) for node in trees()["settings"].body)
    used = {node.id for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert settings <= used
    comments = re.findall(r"(?m)^# (.*)$", cells("code")["settings"])
    assert len(comments) >= 12


def test_every_name_of_mascot_is_public() -> None:
    asked = {
        node.attr
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mascot"
    }
    assert asked >= {"doctor", "train", "generate_knob_grid", "evaluate", "diagnose", "bundle", "show"}
    assert asked <= set(mascot.__all__)


def test_the_study_in_the_notebook_is_the_recipe(tiny_base: Path) -> None:
    body = trees()["study"].body
    values = {node.targets[0].id: node.value for node in body if isinstance(node, ast.Assign)}  # pyright: ignore[reportAttributeAccessIssue]
    file, photos = ROOT / "recipes" / "study.toml", mascot.example_photos()
    recipe = mascot.Recipe.preset(photos=photos, file=file, base=str(tiny_base)).model_dump()
    settings = ast.literal_eval(values["STUDY_SETTINGS"])
    for name, value in settings.items():
        stated = {name: value} if not isinstance(value, dict) else value
        of = recipe if not isinstance(value, dict) else recipe[name]
        assert {key: of[key] for key in stated} == stated
    assert len(ast.literal_eval(values["STUDY_PROMPTS"])) == 9
