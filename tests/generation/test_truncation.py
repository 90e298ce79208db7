"""Long prompts: every command says in one line what each text encoder leaves out of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mascot.cli import app
from mascot.generation.generator import Generator
from mascot.generation.knobs import ImageRequest, Knobs
from mascot.generation.prompts.truncation import describe_truncations
from mascot.models.families.registry import load_family
from mascot.progress import Event, PromptRead, PromptTruncated
from tiny.families import CASCADES, MAKERS, tiny_base
from tiny.stable_diffusion import tiny_stable_diffusion
from tiny.world import World

LONG = "a photo of a dog " + "in the snow " * 200 + "with a purple hat"
READS = {
    "sd": {"text encoder": 77},
    "sdxl": {"text encoder": 77, "text encoder 2": 77},
    "sd3": {"text encoder": 77, "text encoder 2": 77, "text encoder 3": 256},
    "flux": {"text encoder": 77, "text encoder 2": 32},
    "deepfloyd_if": {"text encoder": 77},
    "deepfloyd_if_cascade": {"text encoder": 77},
}

CLIPS = {"text encoder", "text encoder 2"}
WHOLE = {"sd": {"text encoder"}, "sdxl": CLIPS, "sd3": CLIPS}
"""Family -> the text encoders that read prompts to their ends in chunks, when generating."""


@pytest.mark.parametrize("name", READS)
def test_each_text_encoder_says_what_it_leaves_out(tmp_path: Path, name: str) -> None:
    base = tiny_stable_diffusion(tmp_path / "base") if name == "sd" else tiny_base(name, tmp_path / "base")
    for stage in load_family(str(base), device="cpu", precision="fp32").stages:
        assert stage.truncations("a photo of a dog") == {}
        found = stage.truncations(LONG)
        assert {encoder.replace("_", " "): read for encoder, (_, read, _) in found.items()} == READS[name]
        for encoder, (tokens, read, rest) in found.items():
            assert tokens > read
            assert LONG.endswith(rest)
            kept = LONG.removesuffix(rest)
            assert encoder not in stage.truncations(kept.strip())
            assert encoder in stage.truncations(f"{kept.strip()} {rest.split()[0]} snow")
        line = describe_truncations(stage, [LONG, "a dog", LONG])
        assert line.keys() == {LONG}
        assert line[LONG].count("\n") == 0
        typed = describe_truncations(stage, [f"(({LONG}))", "a dog"], typed=True)
        kept = READS[name].keys() - WHOLE.get(name, set())
        assert typed.keys() == ({f"(({LONG}))"} if kept else set())
        assert all(f"{encoder} reads" in "".join(typed.values()) for encoder in kept)
    assert set(READS) == {"sd", *MAKERS, *CASCADES}


@pytest.mark.parametrize(("name", "kinds"), [("sdxl", [PromptRead]), ("flux", [PromptTruncated])])
def test_a_generator_tells_once_of_each_prompt(tmp_path: Path, name: str, kinds: list[type[Event]]) -> None:
    family, events = load_family(str(tiny_base(name, tmp_path / "base")), device="cpu", precision="fp32"), []
    generator = Generator(family, on_event=events.append)
    for prompt in (LONG, LONG, "a dog"):
        list(generator.generate([ImageRequest(prompt, 0)], Knobs(steps=1, height=64, width=64, negative=f"no {LONG}")))
    assert [type(event) for event in events] == kinds * 2


def test_scoring_says_so_even_where_all_images_are_cached(world: World) -> None:
    for _ in range(2):
        events: list[Event] = []
        world.evaluate(prompts=[f"a {{subject}} {LONG}"], on_event=events.append)
        told = [event for event in events if isinstance(event, PromptRead)]
        assert len(told) == 2  # with the token, and by the base without it
        assert "a sks dog a photo" in told[0].message
        assert "is read in 9 chunks" in told[0].message


def test_generate_says_so_on_stderr(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(world.run.folder), LONG, "a dog", "--count", "2", "--steps", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["mascot", *words])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        app.main()
    out, err = capfd.readouterr()
    assert stop.value.code in {0, None}
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert "is read in 9 chunks" in notes[0]
    assert len(out.splitlines()) == 4
