"""Laws of token choice: the word that means least to the base, found once and then cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mascot.api.doctor import doctor
from mascot.api.experiments.find_token import find_token
from mascot.api.train import train
from mascot.errors import UserError
from mascot.evaluation.metrics.default_encoders import EncoderPair, load_encoders
from mascot.evaluation.selection import token_choice
from mascot.evaluation.selection.token_choice import (
    ChosenToken,
    TokenSearch,
    cached_token_path,
    choose_token,
    find_or_recall_token,
    read_cached_token,
    search_facts,
    search_rows,
)
from mascot.evaluation.selection.token_scoring import LOW_NOUN_SIMILARITY, TextTokenScorer, TokenScorer
from mascot.generation.generator import Generator
from mascot.generation.knobs import Knobs
from mascot.generation.sample_cache import SampleCache
from mascot.progress import Event, SettingsResolved, TokenSearchStarted
from mascot.protocols import Family
from mascot.recipe.recipe import Recipe
from mascot.runs.effective_settings import UNNAMED
from tiny.vocabularies import RARE, rare_base

EMBEDDED = "starter"
QUICK = Knobs(steps=1, guidance=1)


@pytest.fixture(scope="module")
def encoders() -> EncoderPair:
    return load_encoders(EMBEDDED)


@pytest.fixture
def family(tiny_base: Path, encoders: EncoderPair, monkeypatch: pytest.MonkeyPatch) -> Family:
    """A base with rare words, encoders for it, and images of one step."""
    monkeypatch.setattr(token_choice, "load_encoders", lambda *_, **__: encoders)
    quick(monkeypatch)
    return rare_base(tiny_base)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        token_choice, "TokenScorer", lambda *rest, **more: TokenScorer(*rest, **more, knobs=QUICK, images=2)
    )


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("searched again")


def absent(*_: Any, **__: Any) -> Any:
    raise UserError("the encoder is not there.")


def test_the_word_that_means_least_is_found_once(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call reads a file; it loads, measures and generates nothing."""
    events: list[Event] = []
    name = find_or_recall_token(family, "base", folder=tmp_path, on_event=events.append)
    assert name.token in set(RARE) - {"vrk"}
    assert name.why.startswith(f"found in this base: of {len(RARE)} rare words it means least (0.")
    assert [type(event) for event in events] == [TokenSearchStarted]
    for part in ("TextTokenScorer", "TokenScorer", "load_encoders"):
        monkeypatch.setattr(token_choice, part, refuse)
    assert find_or_recall_token(family, "base", folder=tmp_path) == name
    with pytest.raises(AssertionError, match="searched again"):
        find_or_recall_token(family, "base", folder=tmp_path / "elsewhere")


def test_what_decides_the_token_is_the_key_of_the_cache(family: Family, tmp_path: Path) -> None:
    name = find_or_recall_token(family, "base", folder=tmp_path)
    known = search_facts(family, "base")
    assert read_cached_token(known, tmp_path) == name
    for fact in known:
        assert read_cached_token(known | {fact: "another"}, tmp_path) is None
    assert search_facts(family, EMBEDDED) != known, "other encoders measure its images"


@pytest.mark.parametrize("text", ['{"token": 3}', "", "\0", "[" * 2000, "changed"])
def test_a_damaged_result_is_searched_again_and_said(
    family: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    name = find_or_recall_token(family, "base", folder=tmp_path)
    path = cached_token_path(search_facts(family, "base"), tmp_path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(name.token, f"{name.token}x") if text == "changed" else text, encoding="utf-8")
    for _ in range(2):
        assert find_or_recall_token(family, "base", folder=tmp_path) == name
    assert path.read_text(encoding="utf-8") == whole
    assert [record.getMessage() for record in caplog.records] == [f"{path} is damaged; what it held is made again."]


def test_without_encoders_text_embeddings_decide_and_the_reason_is_given(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is cached: once the encoders are there, images decide."""
    monkeypatch.setattr(token_choice, "load_encoders", absent)
    name = find_or_recall_token(family, "base", folder=tmp_path)
    text_scorer = TextTokenScorer(family)
    assert name.token == min(RARE, key=lambda word: text_scorer.score(word).value)
    assert "text embedding is least like a noun's" in name.why
    assert name.why.endswith("no images were generated: the encoder is not there.")
    assert list(tmp_path.iterdir()) == []


def test_a_large_base_generates_nothing_on_a_cpu(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_choice, "CPU_WEIGHT_LIMIT", 0)
    monkeypatch.setattr(token_choice, "load_encoders", refuse)
    assert "`mascot token --base base` does it once" in find_or_recall_token(family, "base", folder=tmp_path).why


def test_without_rare_words_the_token_is_sks_and_the_reason_is_given(tiny_base: Path, tmp_path: Path) -> None:
    from mascot.models.families.registry import load_family

    name = find_or_recall_token(
        load_family(str(tiny_base), device="cpu", precision="fp32"), str(tiny_base), folder=tmp_path
    )
    assert name.token == "sks"  # noqa: S105 - a word of prompts
    assert "no short rare word" in name.why
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_with_a_token_is_not_searched(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_choice, "find_or_recall_token", refuse)
    recipe = Recipe.preset(photos=["photos"], token="abc")  # noqa: S106
    assert choose_token(recipe, family) == (recipe, "")


@pytest.fixture
def photos(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    return home / "photos"


def small(photos: Path, base: str, *overrides: str) -> Recipe:
    common = (
        "prior.count=0",
        "previews.every=0",
        "selection.active=false",
        "training.steps=1",
        "precision=fp32",
        "device=cpu",
    )
    return Recipe.preset(photos=[str(photos)], class_noun="dog", base=base, overrides=[*common, *overrides])


def test_a_run_keeps_its_token_and_is_resumed_with_it(
    family: Family, photos: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written recipe holds the token, and the recipe without a token resumes the run.

    It does so even where a search would give another token by then.
    """
    recipe, events = small(photos, str(tiny_base)), list[Event]()
    run = train(recipe, out=tmp_path / "run", report=False, family=family, on_event=events.append)
    [rows] = [dict(event.rows) for event in events if isinstance(event, SettingsResolved)]
    made = Recipe.read(run.recipe)
    word = made.token
    assert recipe.token is None
    assert word in RARE
    assert recipe.fits(made)
    assert not recipe.fits(made.model_copy(update={"seed": 1}))
    assert not made.model_copy(update={"token": "other"}).fits(made)
    assert rows["token"].startswith(f"{word}, found in this base: ")
    assert rows["captions"] == f"a photo of {word} dog"
    before = run.adapter.read_bytes()
    monkeypatch.setattr(token_choice, "find_or_recall_token", refuse)
    train(recipe, out=tmp_path / "run", resume=True, report=False, family=rare_base(tiny_base))
    assert (Recipe.read(run.recipe), run.adapter.read_bytes()) == (made, before)
    alone = train(made, out=tmp_path / "alone", report=False, family=rare_base(tiny_base))
    assert alone.adapter.read_bytes() == before


def test_the_doctor_names_the_token_or_where_it_will_come_from(
    family: Family, photos: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mascot.api.doctor.load_base", lambda _: family)
    recipe = small(photos, str(tiny_base))
    assert dict(doctor(recipe, measure=False).settings)["token"] == UNNAMED
    name, report = find_or_recall_token(family, str(tiny_base)), doctor(recipe)
    assert dict(report.settings)["token"] == f"{name.token}, {name.why}"
    assert report.subject.token == name.token
    assert dict(report.settings)["captions"] == f"a photo of {name.token} dog"


def read_packaged_token() -> ChosenToken:
    from mascot.models import starter

    return ChosenToken.read(starter.token_file())


def test_the_embedded_base_has_its_token_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged token belongs to these weights and settings; nothing is generated or written."""
    from mascot.models.families.registry import load_family

    monkeypatch.setattr(token_choice, "TextTokenScorer", refuse)
    family = load_family(EMBEDDED, device="cpu", precision="fp32")
    assert find_or_recall_token(family, EMBEDDED, folder=tmp_path) == read_packaged_token()
    assert list(tmp_path.iterdir()) == []


def test_what_the_terminal_shows(family: Family, encoders: EncoderPair, tmp_path: Path) -> None:
    ours = TokenScorer(Generator(family), encoders, SampleCache(tmp_path), knobs=QUICK, images=2)
    found = TokenSearch(
        tokens=tuple(ours.find_best(count=2)),
        common_token=ours.score(["sks"])[0],
        rare_word_count=5,
        nouns=ours.reference_nouns,
        encoders=encoders.describe(),
    )
    rows = search_rows(found)
    assert [name for name, _ in rows[:3]] == [*(one.token for one in found.tokens), "sks"]
    assert f"{found.tokens[0].noun_similarity:.2f}: means" in rows[0][1]
    assert "one token" in rows[0][1]
    assert "rifle" in rows[2][1]
    assert all(line in dict(rows).values() for line in encoders.describe().values())


def test_what_the_command_finds_is_cached(
    family: Family, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with the default settings: another seed is another search."""
    monkeypatch.setattr(token_choice, "load_family", lambda *_, **__: family)
    find_token(str(tiny_base), seed=3, folder=tmp_path)
    assert read_cached_token(search_facts(family, str(tiny_base)), tmp_path) is None
    found = find_token(str(tiny_base), folder=tmp_path)
    assert find_or_recall_token(family, str(tiny_base), folder=tmp_path).token == found.tokens[0].token


@pytest.mark.slow
def test_the_packaged_token_is_what_is_found(tmp_path: Path) -> None:
    found = find_token(EMBEDDED, folder=tmp_path)
    best = found.tokens[0]
    assert best.noun_similarity < LOW_NOUN_SIMILARITY
    assert best.noun_similarity < found.common_token.noun_similarity
    (kept,) = tmp_path.glob("*.json")
    assert ChosenToken.read(kept) == read_packaged_token()
