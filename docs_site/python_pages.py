"""The reference of the Python functions and classes, from the code and its docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import mascot
from docs_site.page_text import code, table

PACKAGE = Path(mascot.__file__).parent
SECTIONS = {"Args": "argument", "Arguments": "argument", "Returns": "", "Yields": "", "Raises": "error"}
"""Heading of a docstring's section -> what its entries are; empty for one that is plain text."""
CROSS_REFERENCE = re.compile(r"(?<!`)`(?P<name>[a-z_]+)`(?!`)")
INTRODUCTION = """# Python

This page is made from the code and its docstrings. `import mascot` loads no library; each name is
imported when it is first used.

```python
import mascot

recipe = mascot.Recipe.preset(photos=("photos/",), class_noun="dog")
run = mascot.train(recipe, out="runs/dog")
images = mascot.generate(run, ["a {subject} in the snow"], count=4)
scores = mascot.evaluate(run)
```
"""
EVENTS = """# Events

Each function of [Python](python.md) that takes `on_event` calls it with these values, in order, in
the process that does the work. They are frozen dataclasses of `mascot.progress`, and hold plain
values only. The terminal and other displays subscribe to the same events.
"""

RECORDS = """# Records

The fields of the files in JSON, and of the manifest in an adapter's header. This page is made from
the code. [Files](files.md) says where each file lies.
"""
RECORD_CLASSES = {
    "The manifest of an adapter": ("mascot.adapters.adapter_file", ("Manifest", "SubjectRecord")),
    "effective.json": ("mascot.runs.opening", ("StartFacts",)),
    "scores.json": (
        "mascot.evaluation.scores",
        (
            "Scores",
            "Score",
            "PromptScores",
            "ImageScores",
            "FoldScores",
            "SubjectScores",
            "LeakageScores",
            "JointScores",
        ),
    ),
    "diagnosis.json": ("mascot.evaluation.diagnosis.findings", ("Diagnosis", "Finding", "CheckResult")),
    "leaderboard.json": ("mascot.experiments.leaderboard", ("Leaderboard", "Entry", "Measurement")),
    "suite.json": ("mascot.experiments.suite", ("SuiteSummary", "SubjectMean")),
}
"""Heading -> module and the classes that it is made of, the outermost first."""

Documented = ast.FunctionDef | ast.ClassDef


def python_page() -> str:
    """Write the page of all public names: functions first, then classes."""
    found = {name: definition(module, name) for name, module in mascot.PUBLIC.items()}
    functions = sorted(name for name, node in found.items() if isinstance(node, ast.FunctionDef))
    classes = sorted(name for name, node in found.items() if isinstance(node, ast.ClassDef))
    parts = [INTRODUCTION]
    parts += [f"- [`mascot.{name}`](#mascot{name.lower()}): {summary(found[name])}" for name in (*functions, *classes)]
    parts.append("")
    for name in functions:
        node = found[name]
        assert isinstance(node, ast.FunctionDef)
        parts += [f"## mascot.{name}\n", signature(node, f"mascot.{name}"), docstring(node)]
    for name in classes:
        node = found[name]
        assert isinstance(node, ast.ClassDef)
        parts += [f"## mascot.{name}\n", docstring(node), *members(node)]
    return "\n".join(parts)


def event_page() -> str:
    """Write the page of all events, in the order of their file."""
    nodes = ast.parse((PACKAGE / "progress.py").read_text(encoding="utf-8")).body
    events = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name != "Event"]
    return "\n".join(
        [EVENTS, *(part for node in events for part in (f"## {node.name}\n", docstring(node), fields(node)))]
    )


def record_page() -> str:
    """Write the page of all files in JSON, class by class."""
    parts = [RECORDS]
    for heading, (module, names) in RECORD_CLASSES.items():
        parts.append(f"## {heading}\n")
        for name in names:
            node = definition(module, name)
            assert isinstance(node, ast.ClassDef)
            parts += [f"**{name}.** {summary(node)}\n", fields(node)]
    return "\n".join(parts)


def definition(module: str, name: str) -> Documented:
    """Find the definition of a public name in its module."""
    path = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    # The last one: those before it may be overloads.
    return [node for node in nodes if isinstance(node, Documented) and node.name == name][-1]


def summary(node: Documented) -> str:
    """Return the first sentence of a docstring."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())


def signature(node: ast.FunctionDef, name: str) -> str:
    """Write a function's signature as a block of code, with an argument on each line."""
    plain = [
        ast.unparse(ast.arguments([], [argument], kwonlyargs=[], kw_defaults=[], defaults=[]))
        for argument in (*node.args.posonlyargs, *node.args.args)
    ]
    plain = [text for text in plain if text not in {"self", "cls"}]
    defaults = [ast.unparse(default) for default in node.args.defaults]
    first = len(plain) - len(defaults)
    listed = [text if number < first else f"{text} = {defaults[number - first]}" for number, text in enumerate(plain)]
    if node.args.vararg is not None:
        listed.append(f"*{ast.unparse(node.args.vararg)}")
    elif node.args.kwonlyargs:
        listed.append("*")
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        listed.append(ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else ""))
    if node.args.kwarg is not None:
        listed.append(f"**{ast.unparse(node.args.kwarg)}")
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    lines = "".join(f"    {text},\n" for text in listed)
    return f"```python\n{name}({chr(10) if lines else ''}{lines}){result}\n```\n"


def docstring(node: Documented) -> str:
    """Write a docstring as Markdown, its sections as tables."""
    blocks = (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(block_text(block) for block in blocks) + "\n"


def block_text(block: str) -> str:
    """Write one block of a docstring: a section with a heading, or a paragraph."""
    heading, _, rest = block.partition(":\n")
    if heading not in SECTIONS:
        return block if block.lstrip().startswith("- ") or "\n- " in block else " ".join(block.split())
    lines = inspect.cleandoc(rest).splitlines()
    if not SECTIONS[heading]:
        return f"**{heading}:** {' '.join(lines)}"
    return f"**{heading}**\n\n" + table([SECTIONS[heading], ""], entries(lines)).rstrip()


def entries(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """List the entries of a section, each `name: text` with its indented continuation."""
    joined: list[str] = []
    for line in lines:
        if line.startswith(" ") and joined:
            joined[-1] += f" {line.strip()}"
        else:
            joined.append(line)
    for entry in joined:
        name, _, text = entry.partition(": ")
        yield code(name), text


def members(node: ast.ClassDef) -> Iterator[str]:
    """Write a class's fields, properties and methods."""
    yield fields(node)
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    properties = [one for one in methods if "property" in decorators(one)]
    if properties:
        yield table(["property", "what it is"], ((code(one.name), summary(one)) for one in properties))
    for one in methods:
        if one not in properties and not {"field_validator", "model_validator", "model_serializer"} & decorators(one):
            yield f"**`{node.name}.{one.name}`**\n"
            yield signature(one, one.name)
            yield docstring(one)


def decorators(node: ast.FunctionDef) -> set[str]:
    """Return the names of a function's decorators."""
    return {ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in node.decorator_list}


def fields(node: ast.ClassDef) -> str:
    """Write a table of the fields of a class, with the texts below them or in their definitions."""
    rows: list[tuple[str, str, str]] = []
    for one, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            rows.append(
                (code(one.target.id), code(ast.unparse(one.annotation)), text_below(following) or description(one))
            )
    return table(["field", "type", "what it is"], rows) if rows else ""


def text_below(node: ast.stmt | None) -> str:
    """Return the text that stands below a field; empty where there is none."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value).replace("\n", " ")
    return ""


def description(node: ast.AnnAssign) -> str:
    """Return the description inside a field's definition; empty where there is none."""
    keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
    found = [one.value.value for one in keywords if one.arg == "description" and isinstance(one.value, ast.Constant)]
    return str(found[0]) if found else ""
