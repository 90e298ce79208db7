"""Laws of naming: who names no token gets the base's emptiest word, the same each time, found once; and is told when none was to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mascot.api.doctor import doctor
from mascot.api.find_token import find_token
from mascot.api.train import train
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.selection import token_choice
from mascot.evaluation.selection.token_choice import (
    ChosenToken,
    TokenSearch,
    choose_token,
    facts_of,
    find_or_recall_token,
    place_of,
    recall,
    rows_of,
)
from mascot.evaluation.selection.token_scoring import LITTLE, TokenExaminer, TokenReader
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.generation.sample_cache import SampleCache
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs import effective_settings
from mascot.runs.effective_settings import UNNAMED
from tiny.vocabularies import RARE, rare_base

EMBEDDED = "starter"
QUICK = Knobs(steps=1, guidance=1)


@pytest.fixture(scope="module")
def encoders() -> EncoderPair:
    return load_encoders(EMBEDDED)


@pytest.fixture
def family(tiny_base: Path, encoders: EncoderPair, monkeypatch: pytest.MonkeyPatch) -> Family:
    """A base with rare words, judges that are there for it, and pictures of one step."""
    monkeypatch.setattr(token_choice, "judges_for", lambda *_, **__: encoders)
    quick(monkeypatch)
    return rare_base(tiny_base)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        token_choice, "TokenExaminer", lambda *rest, **more: TokenExaminer(*rest, **more, knobs=QUICK, images=2)
    )


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("looked for again")


def absent(*_: Any, **__: Any) -> Any:
    raise UserError("the judge is not there.")


def test_the_emptiest_word_is_found_once(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call reads a file, and loads, reads and draws nothing."""
    heard: list[tuple[str, Any]] = []
    name = find_or_recall_token(
        family, "base", folder=tmp_path, progress=lambda phase, facts: heard.append((phase, facts))
    )
    assert name.token in set(RARE) - {"vrk"}
    assert name.why.startswith(f"found in this base: of {len(RARE)} rare words it means least (0.")
    assert [phase for phase, _ in heard] == ["token"]
    for part in ("TokenReader", "TokenExaminer", "judges_for"):
        monkeypatch.setattr(token_choice, part, refuse)
    assert find_or_recall_token(family, "base", folder=tmp_path) == name
    with pytest.raises(AssertionError, match="looked for again"):
        find_or_recall_token(family, "base", folder=tmp_path / "elsewhere")


def test_what_decides_the_word_decides_what_is_remembered(family: Family, tmp_path: Path) -> None:
    name = find_or_recall_token(family, "base", folder=tmp_path)
    known = facts_of(family, "base")
    assert recall(known, tmp_path) == name
    for fact in known:
        assert recall(known | {fact: "another"}, tmp_path) is None
    assert facts_of(family, EMBEDDED) != known, "its pictures are judged by others"


def test_a_damaged_memory_is_refused(family: Family, tmp_path: Path) -> None:
    place_of(facts_of(family, "base"), tmp_path).write_text('{"token": 3}')
    with pytest.raises(UserError, match="delete it"):
        find_or_recall_token(family, "base", folder=tmp_path)


def test_without_judges_words_are_only_read_and_it_is_said(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is remembered: with judges there, pictures will decide."""
    monkeypatch.setattr(token_choice, "judges_for", absent)
    name = find_or_recall_token(family, "base", folder=tmp_path)
    reader = TokenReader(family)
    assert name.token == min(RARE, key=lambda word: reader.read(word).value)
    assert "reads least like a noun" in name.why
    assert name.why.endswith("none was drawn: the judge is not there.")
    assert list(tmp_path.iterdir()) == []


def test_a_large_base_draws_nothing_on_a_cpu(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_choice, "SMALL", 0)
    monkeypatch.setattr(token_choice, "judges_for", refuse)
    assert "`mascot token --base base` does it once" in find_or_recall_token(family, "base", folder=tmp_path).why


def test_a_vocabulary_without_rare_words_leaves_folklore_and_it_is_said(tiny_base: Path, tmp_path: Path) -> None:
    from mascot.models.families.registry import load_family

    name = find_or_recall_token(
        load_family(str(tiny_base), device="cpu", precision="fp32"), str(tiny_base), folder=tmp_path
    )
    assert name.token == "sks"  # noqa: S105 - a word of prompts
    assert "no short rare word" in name.why
    assert list(tmp_path.iterdir()) == []


def test_who_names_a_token_is_asked_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_choice, "usual_name", refuse)
    recipe = Recipe.preset(photos=["photos"], token="abc")  # noqa: S106
    assert choose_token(recipe, family) == (recipe, "")


@pytest.fixture
def photos(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return home / "photos"


def small(photos: Path, base: str, *overrides: str) -> Recipe:
    usual = (
        "prior.count=0",
        "previews.every=0",
        "selection.active=false",
        "training.steps=1",
        "precision=fp32",
        "device=cpu",
    )
    return Recipe.preset(photos=[str(photos)], class_noun="dog", base=base, overrides=[*usual, *overrides])


def test_a_run_keeps_its_word_and_is_resumed_with_it(
    family: Family, photos: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe that is written holds the word; the one that left it open resumes the run, though the base would say another by then."""
    recipe, said = small(photos, str(tiny_base)), dict[str, str]()
    heed = lambda phase, facts: said.update(facts) if phase == "effective" else None  # noqa: E731
    run = train(recipe, out=tmp_path / "run", report=False, family=family, progress=heed)
    made = Recipe.read(run.recipe)
    word = made.token
    assert recipe.token is None
    assert word in RARE
    assert recipe.fits(made)
    assert not recipe.fits(made.model_copy(update={"seed": 1}))
    assert not made.model_copy(update={"token": "other"}).fits(made)
    assert said["token"].startswith(f"{word}, found in this base: ")
    assert said["captions"] == f"a photo of {word} dog"
    before = run.adapter.read_bytes()
    monkeypatch.setattr(token_choice, "usual_name", refuse)
    train(recipe, out=tmp_path / "run", resume=True, report=False, family=rare_base(tiny_base))
    assert (Recipe.read(run.recipe), run.adapter.read_bytes()) == (made, before)
    alone = train(made, out=tmp_path / "alone", report=False, family=rare_base(tiny_base))
    assert alone.adapter.read_bytes() == before


def test_the_doctor_says_the_word_or_where_it_will_come_from(
    family: Family, photos: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effective_settings, "load_base", lambda _: family)
    recipe = small(photos, str(tiny_base))
    assert dict(doctor(recipe, measure=False).settings)["token"] == UNNAMED
    name, checkup = find_or_recall_token(family, str(tiny_base)), doctor(recipe)
    assert dict(checkup.settings)["token"] == f"{name.token}, {name.why}"
    assert checkup.subject.token == name.token
    assert dict(checkup.settings)["captions"] == f"a photo of {name.token} dog"


def recall_packaged() -> ChosenToken:
    from mascot.models import starter

    return ChosenToken.read(starter.token_file())


def test_the_embedded_base_has_its_word_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged answer is of these weights and these settings; nothing is drawn or written."""
    from mascot.models.families.registry import load_family

    monkeypatch.setattr(token_choice, "TokenReader", refuse)
    family = load_family(EMBEDDED, device="cpu", precision="fp32")
    assert find_or_recall_token(family, EMBEDDED, folder=tmp_path) == recall_packaged()
    assert list(tmp_path.iterdir()) == []


def test_what_the_terminal_shows(family: Family, encoders: EncoderPair, tmp_path: Path) -> None:
    ours = TokenExaminer(Generator(family), encoders, SampleCache(tmp_path), knobs=QUICK, images=2)
    found = TokenSearch(
        tokens=tuple(ours.find(count=2)),
        folklore=ours.examine(["sks"])[0],
        rare=5,
        nouns=ours.references,
        encoders=encoders.describe(),
    )
    rows = rows_of(found)
    assert [name for name, _ in rows[:3]] == [*(one.token for one in found.tokens), "sks"]
    assert f"{found.tokens[0].meaning:.2f}: means" in rows[0][1]
    assert "one token" in rows[0][1]
    assert "rifle" in rows[2][1]
    assert all(line in dict(rows).values() for line in encoders.describe().values())


def test_what_the_command_finds_is_remembered(
    family: Family, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the usual settings alone: another seed is another question."""
    monkeypatch.setattr(token_choice, "load_family", lambda *_, **__: family)
    find_token(str(tiny_base), seed=3, folder=tmp_path)
    assert recall(facts_of(family, str(tiny_base)), tmp_path) is None
    found = find_token(str(tiny_base), folder=tmp_path)
    assert find_or_recall_token(family, str(tiny_base), folder=tmp_path).token == found.tokens[0].token


@pytest.mark.slow
def test_the_packaged_word_is_what_is_found(tmp_path: Path) -> None:
    found = find_token(EMBEDDED, folder=tmp_path)
    best = found.tokens[0]
    assert best.meaning < LITTLE
    assert best.meaning < found.folklore.meaning
    (kept,) = tmp_path.glob("*.json")
    assert ChosenToken.read(kept) == recall_packaged()
