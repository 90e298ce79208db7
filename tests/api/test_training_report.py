"""Laws of a run's report: it shows everything that was promised, and shows the user's words as words."""

from __future__ import annotations

import html
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mascot.api.generate import generate
from mascot.api.train import train
from mascot.api.training_report import GUIDANCES, IMAGES, SCALES
from mascot.data.prompt_templates import fill
from mascot.generation.prompt_sets import CONTEXTS, KNOBS_PROMPT
from mascot.protocols import Subject
from mascot.recipe.recipe import Recipe
from mascot.reports.training_page import HERO
from mascot.storage.run_folder import Run
from tiny.photos import noise

SUBJECT = Subject("<b>", "R&D")
NAMES = ("<i>.png", "a & b.png", "'quoted'.png")
EVERY = 2
STEPS = 4


class Page(HTMLParser):
    """What a browser would see: the texts, and each picture's section and description."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.section, self.images, self.texts, self.tags = "", list[tuple[str, str]](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note sections and pictures."""
        facts = dict(attrs)
        self.tags.add(tag)
        if tag == "section":
            self.section = facts.get("id") or ""
        if tag == "img":
            assert (facts.get("src") or "").startswith("data:image/")
            self.images.append((self.section, facts.get("alt") or ""))

    def handle_data(self, data: str) -> None:
        """Note texts."""
        self.texts.append(" ".join(data.split()))

    def alternatives(self, words: str) -> list[str]:
        """Descriptions of pictures that hold these words."""
        return [alt for _, alt in self.images if words in alt]


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose subject has a name that HTML would misread."""
    folder = tmp_path_factory.mktemp("outcome")
    (folder / "photos").mkdir()
    for number, name in enumerate(NAMES):
        noise(64 + number, 64).save(folder / "photos" / name)
    small = (
        "precision=fp32",
        "device=cpu",
        "prior.count=0",
        "knobs.steps=1",
        "method.rank=2",
        "dataset.flip=true",
        "training.batch_size=1",
    )
    recipe = Recipe.preset(
        photos=(str(folder / "photos"),), base=str(tiny_base), token=SUBJECT.token, class_noun=SUBJECT.class_noun,
        overrides=[*small, f"training.steps={STEPS}", f"previews.every={EVERY}"],
    )  # fmt: skip
    return train(recipe, out=folder / "run")


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    """The report's source."""
    return run.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    """The report as a browser sees it."""
    return Page(text)


def test_every_photo_is_there_with_its_name_and_caption(page: Page) -> None:
    for name in NAMES:
        assert page.alternatives(f"Photo {name}: a photo of <b> R&D") != []
        assert name in page.texts


@pytest.mark.parametrize("step", range(0, STEPS + 1, EVERY))
def test_every_preview_is_there(page: Page, step: int) -> None:
    recipe = Recipe.preset(photos=("p",), token=SUBJECT.token, class_noun=SUBJECT.class_noun)
    for prompt in recipe.previews.prompts:
        assert len([alt for alt in page.alternatives(f"Step {step}") if alt.endswith(fill(prompt, SUBJECT))]) == 1


@pytest.mark.parametrize("prompt", [prompt for group in CONTEXTS.values() for prompt in group])
def test_every_context_is_there_with_all_its_pictures_and_the_untouched_base(page: Page, prompt: str) -> None:
    filled = fill(prompt, SUBJECT)
    assert filled in page.texts
    assert len(page.alternatives(f"{filled}, picture ")) == IMAGES
    assert len(page.alternatives(f"{filled}, drawn by the untouched base")) == 1


def test_every_place_of_the_knobs_is_there(page: Page) -> None:
    shown = page.alternatives(f"{fill(KNOBS_PROMPT, SUBJECT)}, guidance ")
    assert len(set(shown)) == len(shown) == len(GUIDANCES) * len(SCALES) ** 2


def test_there_are_no_other_pictures(page: Page) -> None:
    rows = sum(len(group) for group in CONTEXTS.values())
    previews = (STEPS // EVERY + 1) * 4
    assert len(page.images) == HERO + len(NAMES) + previews + rows * (IMAGES + 1) + len(GUIDANCES) * len(SCALES) ** 2


def test_the_settings_the_recipe_and_the_way_on_are_there(page: Page, run: Run, tiny_base: Path) -> None:
    whole = "\n".join(page.texts)
    assert "passes over each photo" in whole
    assert str(tiny_base) in whole
    assert " ".join(run.recipe.read_text(encoding="utf-8").split()) in whole
    assert f"mascot generate {run.folder}" in whole


def test_the_users_words_are_words_and_not_markup(text: str, page: Page) -> None:
    assert html.escape("<b> R&D", quote=False) in text
    assert "<b> R&D" not in text
    assert "R&D" not in text
    assert "<i>" not in text
    assert "i" not in page.tags


def test_the_adapter_as_shared_draws_what_the_report_shows(run: Run) -> None:
    first, again = (generate(run, ["a {subject} in the snow"], count=1)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.size == (64, 64)
