"""Laws of the composed scenes: captions, shares, individuals, materials and views."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from starter_training.drawings.objects import read_objects, wanted_icons
from starter_training.scenes.augmentations import (
    HUES,
    PLAIN,
    TRAINING,
    Variation,
    choose_subjects,
    families_of,
    finish,
    generate_views,
)
from starter_training.scenes.backgrounds import PLACES
from starter_training.scenes.canvas import COLORS
from starter_training.scenes.caption_words import (
    ALIVE,
    BESIDE,
    PATTERNS,
    PHOTO_STYLES,
    PLURALS,
    PLUSH,
    RIGHT_OF,
    SECOND,
    TINTS,
    invented_names,
)
from starter_training.scenes.scene_grammar import (
    SILENT_SHARE,
    Figure,
    choose_figure,
    compose,
    paste_pair,
    paste_resized,
    paste_turned,
    paste_with_accessory,
    stream,
)
from starter_training.scenes.textures import FILTERS, MATERIALS, apply_filter, make_of, sew, turn_hues
from starter_training.scenes.world import Look, World

OBJECTS = read_objects()
NOUNS = sorted(OBJECTS["nouns"])
SIDE = 8
SCENES = 2500
MAGENTA, GREEN = (255, 0, 255, 255), (0, 200, 0, 255)


def any_of(words: list[str] | tuple[str, ...]) -> str:
    """Return a pattern for one of several words, the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


STYLES = [style for style in (*PHOTO_STYLES, *FILTERS) if style] + [
    f"{'an' if art[0] in 'aeiou' else 'a'} {art} of" for art in OBJECTS["arts"].values()
]
THINGS = [facts["words"].split(" ", 1)[1] for facts in OBJECTS["accessories"].values()]
TINT, COLOR, NOUN = any_of(TINTS), any_of(list(COLORS)), any_of(NOUNS)
BETWEEN = [words.removesuffix(" a ") for words in (*BESIDE, RIGHT_OF)]
GRAMMAR = re.compile(
    rf"((?P<style>{any_of(STYLES)}) )?"
    rf"(two (?P<two>{any_of([PLURALS.get(noun, noun + 's') for noun in NOUNS])})|(?P<face>the face of )?an? "
    rf"((?P<size>small|big) |(?P<color>{TINT}) |(?P<material>{any_of(list(MATERIALS))}) )?"
    rf"((?P<name>{any_of(invented_names())}) )?(?P<noun>{NOUN})"
    rf"( (?P<accessory>wearing|holding) an? (({TINT}) )?({any_of(THINGS)})| (?P<view>upside down|lying on its side)"
    rf"|({any_of(BETWEEN)}) an? (?P<other>{NOUN}))?)"
    rf"( (?P<place>{any_of(list(PLACES))})| on an? (?P<rug>{COLOR}) rug"
    rf"| on an? ((?P<pattern>{any_of(PATTERNS)}) ({COLOR}) and )?(?P<background>{COLOR}) background)?"
)
"""The grammar of `starter_training.scenes.scene_grammar`, as a pattern."""


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of opaque noise, so that a pasted one can be found again pixel by pixel."""
    rng = np.random.default_rng(0)
    made = {
        f"{art}/{icon}": rng.integers(1, 256, (8, 8, 4), np.uint8)
        for art in OBJECTS["arts"]
        for icon in sorted(wanted_icons())
    }
    for drawing in made.values():
        drawing[..., 3] = 255
    path = tmp_path_factory.mktemp("work") / "drawings.npz"
    np.savez(path, **made)  # pyright: ignore[reportArgumentType]
    return path


def plain(world: World) -> World:
    """Give each place one black backdrop: captions do not depend on it, and painting takes time."""
    world.backdrops |= {place: [Image.new("RGB", (world.side, world.side))] for place in PLACES}
    return world


@pytest.fixture(scope="module")
def world(drawings: Path) -> World:
    return plain(World(drawings, SIDE))


@pytest.fixture(scope="module")
def captions(world: World) -> list[str]:
    return [caption for _, caption in islice(stream(world, [4]), SCENES)]


@pytest.fixture(scope="module")
def parsed(captions: list[str]) -> list[dict[str, str | None]]:
    """Each caption as the parts of the grammar."""
    matches = [GRAMMAR.fullmatch(caption) for caption in captions]
    assert [caption for caption, match in zip(captions, matches, strict=True) if match is None] == []
    return [match.groupdict() for match in matches if match is not None]


def share(parsed: list[dict[str, str | None]], part: str) -> float:
    return sum(caption[part] is not None for caption in parsed) / len(parsed)


# Captions


def test_a_seed_decides_scenes(drawings: Path) -> None:
    """The same seed composes the same scenes, another seed others, whatever was composed before."""
    used, fresh = plain(World(drawings, SIDE)), plain(World(drawings, SIDE))
    list(islice(stream(used, [5]), 50))
    first, again = (list(islice(stream(world, [4]), 30)) for world in (fresh, used))
    assert [(image.tobytes(), caption) for image, caption in first] == [
        (image.tobytes(), caption) for image, caption in again
    ]
    assert [caption for _, caption in first] != [caption for _, caption in islice(stream(used, [5]), 30)]


def test_places_look_the_same_in_any_order(drawings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was painted before changes no place's backdrops."""
    monkeypatch.setattr("starter_training.scenes.world.BACKDROPS_PER_PLACE", 3)
    painted: list[dict[str, list[bytes]]] = []
    for seed in (0, 1):
        world, rng = plain(World(drawings, SIDE)), np.random.default_rng(seed)
        missing = [world.backdrops.pop(place) and place for place in sorted(PLACES)[:5]]
        while not set(missing) <= set(world.backdrops):
            world.backdrop(rng, 0.0)
        painted.append(
            {place: [p.tobytes() for p in bank] for place, bank in world.backdrops.items() if place in missing}
        )
    assert painted[0] == painted[1]
    assert list(painted[0]) != list(painted[1])


def test_captions_are_sentences_of_the_grammar(parsed: list[dict[str, str | None]]) -> None:
    """The grammar matches every caption, and every style, noun and place occurs."""
    found = {
        part: {caption[part] for caption in parsed} - {None} for part in ("style", "noun", "place", "background", "rug")
    }
    assert found == {
        "style": {*STYLES},
        "noun": {*NOUNS},
        "place": {*PLACES},
        "background": {*COLORS},
        "rug": {*COLORS},
    }


def test_articles_fit_the_word_after_them(captions: list[str]) -> None:
    assert [caption for caption in captions if re.search(r"\ba (?!uni)[aeiou]|\ban ([^aeiou]|uni)", caption)] == []


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("color", 0.09),
        ("material", 0.05),
        ("size", 0.10),
        ("view", 0.08),
        ("rug", 0.04 * (1 - SILENT_SHARE)),
        ("pattern", 0.05 * (1 - SILENT_SHARE)),
        ("name", 0.3),
    ],
)
def test_each_kind_of_scene_has_its_share(parsed: list[dict[str, str | None]], part: str, expected: float) -> None:
    assert abs(share(parsed, part) - expected) < 4 * np.sqrt(expected * (1 - expected) / SCENES)


def test_pairs_have_their_share(parsed: list[dict[str, str | None]]) -> None:
    """Two of a noun or one beside another: 22 % together, each of them often."""
    two, other = share(parsed, "two"), share(parsed, "other")
    assert abs(two + other - 0.22) < 4 * np.sqrt(0.22 * 0.78 / SCENES)
    assert min(two, other) > 0.03


def test_one_caption_in_six_says_nothing_of_the_background(parsed: list[dict[str, str | None]]) -> None:
    silent = sum(not (caption["place"] or caption["background"] or caption["rug"]) for caption in parsed) / len(parsed)
    assert abs(silent - SILENT_SHARE) < 4 * np.sqrt(SILENT_SHARE * (1 - SILENT_SHARE) / SCENES)


def test_only_whole_living_figures_wear(parsed: list[dict[str, str | None]]) -> None:
    """A tenth of living figures wear or hold an accessory; things and faces never do."""
    living = [caption for caption in parsed if caption["noun"] in ALIVE and caption["face"] is None]
    others = [caption for caption in parsed if caption["noun"] not in ALIVE or caption["face"] is not None]
    assert abs(share(living, "accessory") - 0.1) < 0.04
    assert {caption["accessory"] for caption in living} == {None, "wearing", "holding"}
    assert share(others, "accessory") == 0


def test_easy_scenes_are_single_figures(world: World) -> None:
    """At difficulty 0 captions name colors and nothing else of a figure."""
    captions = [caption for _, caption in islice(stream(world, [7], difficulty=0.0), 300)]
    matches = [GRAMMAR.fullmatch(caption) for caption in captions]
    for part in ("material", "size", "view", "two", "other", "accessory", "rug", "pattern"):
        assert [match and match[part] for match in matches if match is None or match[part]] == []


def test_nobody_is_named_in_a_world_without_names(drawings: Path) -> None:
    names = re.compile(rf"\b({any_of(invented_names())})\b")
    nameless = plain(World(drawings, SIDE, named=0.0))
    assert [caption for _, caption in islice(stream(nameless, [4]), 300) if names.search(caption)] == []


# Individuals


def test_a_named_individual_always_looks_the_same(world: World) -> None:
    """A name and its noun mean one look in every scene; each name of a noun means another."""
    looks: dict[tuple[str, str], set[Look]] = {}
    rng = np.random.default_rng(0)
    for _ in range(4 * SCENES):
        figure, _ = choose_figure(world, rng)
        words = figure.words.split()
        if words[1] in invented_names():
            looks.setdefault((figure.noun, words[1]), set()).add(figure.look)
    expected = {(noun, one.name): {one.look} for noun, instances in world.instances.items() for one in instances}
    assert looks.items() <= expected.items()
    assert len(looks) > 0.8 * len(expected)


def test_individuals_of_a_noun_differ(world: World) -> None:
    """No two of a noun have the same name or look."""
    for instances in world.instances.values():
        assert len({one.name for one in instances}) == len(instances)
        assert len({world.scale(one.look, 16).tobytes() for one in instances}) == len(instances)


def test_names_return_with_other_nouns(world: World) -> None:
    """Most names are shared by several nouns, so that both words count."""
    names = [one.name for instances in world.instances.values() for one in instances]
    assert np.mean([names.count(name) > 1 for name in names]) > 0.8


def test_a_noun_keeps_its_individuals_in_any_world(drawings: Path, world: World) -> None:
    """Other nouns around it change no name; another seed does."""
    few = {noun: OBJECTS["nouns"][noun] for noun in ("teapot", "dog")}
    small = World(drawings, SIDE, nouns=few)
    assert small.instances == {noun: world.instances[noun] for noun in few}
    assert World(drawings, SIDE, 1, nouns=few).instances != small.instances


def test_a_world_of_few_nouns_knows_only_their_drawings(drawings: Path) -> None:
    """The only other drawings are the accessories, which every world needs."""
    small = World(drawings, SIDE, nouns={"dog": {"bodies": ["dog"]}})
    assert {key.split("/")[1] for key in small.drawings} == {"dog", *OBJECTS["accessories"]}
    assert small.nouns == ["dog"]


# What scenes show


def on_black(paste: Callable[..., str], world: World, figure: Figure, seed: int) -> tuple[Image.Image, str]:
    """Paste a figure on black by one of the grammar's ways; return the image and the words."""
    image = Image.new("RGB", (64, 64))
    return image, paste(world, image, np.random.default_rng(seed), figure)


@pytest.fixture(scope="module")
def large(drawings: Path) -> World:
    return World(drawings, 64)


def test_small_and_big_are_what_they_say(large: World) -> None:
    dog = Figure("dog", Look("noto/dog"), "a dog")
    seen: dict[str, set[int]] = {"a small dog": set(), "a big dog": set()}
    for seed in range(12):
        image, words = on_black(paste_resized, large, dog, seed)
        left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
        assert right - left == bottom - top
        seen[words].add(right - left)
    assert seen == {"a small dog": {29}, "a big dog": {62}}


def test_views_turn_the_figure(large: World) -> None:
    dog = Figure("dog", Look("noto/dog"), "a dog")
    turns = {"a dog upside down": Image.Transpose.FLIP_TOP_BOTTOM, "a dog lying on its side": Image.Transpose.ROTATE_90}
    seen: set[str] = set()
    for seed in range(8):
        image, words = on_black(paste_turned, large, dog, seed)
        shown = image.crop(image.getbbox())
        assert shown.tobytes() == large.scale(dog.look, shown.width).convert("RGB").transpose(turns[words]).tobytes()
        seen.add(words)
    assert seen == set(turns)


def test_accessories_lie_over_their_wearer(large: World) -> None:
    """An accessory of the caption is in the image: the figure without it is another image."""
    dog, ball = (
        Figure(noun, Look(f"noto/{icon}"), f"a {noun}") for noun, icon in (("dog", "dog"), ("ball", "soccer-ball"))
    )
    for seed in range(8):
        image, words = on_black(paste_with_accessory, large, dog, seed)
        assert re.fullmatch(rf"a dog (wearing|holding) an? (({TINT}) )?({any_of(THINGS)})", words)
        assert any(name in words for name in ("balloon", "umbrella")) == ("holding" in words)
        left, _, right, _ = image.getbbox() or (0, 0, 0, 0)
        assert 0 <= left < right <= 64
        bodies = [large.scale(dog.look, side).convert("RGB") for side in (42, 49)]
        assert not any(image.crop(image.getbbox()).tobytes() == body.tobytes() for body in bodies)
    image, words = on_black(paste_with_accessory, large, ball, 0)
    assert words == "a ball"
    assert image.crop(image.getbbox()).tobytes() == large.scale(ball.look, 50).convert("RGB").tobytes()


def test_the_words_of_a_pair_say_which_is_at_the_left(large: World) -> None:
    """The noun named first is at the left, except before "to the right of"."""
    dog = Figure("dog", Look("noto/dog"), "a dog")
    half = large.scale(dog.look, 31).convert("RGB").tobytes()
    seen: set[str] = set()
    for seed in range(200):
        image, words = on_black(paste_pair, large, dog, seed)
        left, right = (image.crop((x, 24, x + 31, 55)).tobytes() == half for x in (1, 32))
        second = SECOND.search(words)
        if second is None:
            assert (words, left, right) == ("two dogs", True, True)
            continue
        between = words.removeprefix("a dog").removesuffix(second.group(1))
        seen.add(between)
        assert second.group(1) in large.nouns
        assert right if between == RIGHT_OF else left
    assert seen == {*BESIDE, RIGHT_OF}


def test_nouns_that_share_drawings_are_kin(large: World) -> None:
    """A picture of a puppy is one of a dog, and neither is one of a cat."""
    assert set(large.kin("puppy")) >= {"puppy", "dog"}
    assert large.kin("puppy")[0] == "puppy"
    assert "cat" not in large.kin("puppy")
    assert "robot" in large.kin("toy")


def test_stuffed_animals_are_plush(large: World) -> None:
    """Each drawing of the noun is sewn, also of its named individuals; no other noun's is."""
    rng = np.random.default_rng(0)
    for noun in large.nouns:
        looks = [large.any_look(noun, rng), *(individual.look for individual in large.instances[noun])]
        assert {look.plush for look in looks} == {noun in PLUSH}
    figures = [choose_figure(large, rng)[0] for _ in range(1500)]
    assert all(figure.look.plush == (figure.noun in PLUSH) for figure in figures)
    assert {figure.noun for figure in figures if figure.look.plush} == PLUSH


def test_plush_keeps_shape_and_colors() -> None:
    """A sewn disc is still a disc of its color, with another texture; the same one each time."""
    disc = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(disc).ellipse([16, 16, 80, 80], fill=GREEN)
    sewn = sew(disc)
    assert sewn.tobytes() == sew(disc).tobytes()
    covered, before = (np.asarray(image.getchannel("A")) > 128 for image in (sewn, disc))
    assert (covered ^ before).mean() < 0.06
    inside = np.asarray(sewn.convert("RGB"))[40:56, 40:56].reshape(-1, 3)
    assert np.abs(inside.mean(0) - (36, 200, 36)).max() < 6
    assert inside.std(0).min() > 5


# Materials


@pytest.fixture(scope="module")
def soft() -> Image.Image:
    """A colored disc whose edge fades over several pixels, as a rendered drawing's does."""
    outline = Image.new("L", (48, 48))
    ImageDraw.Draw(outline).ellipse([8, 8, 40, 40], fill=255)
    disc = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)).filter(
        ImageFilter.GaussianBlur(1)
    )
    disc.putalpha(outline.filter(ImageFilter.GaussianBlur(2)))
    return disc


@pytest.mark.parametrize("word", [*COLORS, *MATERIALS])
def test_a_material_keeps_the_outline(soft: Image.Image, word: str) -> None:
    """Alpha stays as it is, and what it covers changes its colors."""
    made = make_of(soft, word, np.random.default_rng(0))
    assert made.getchannel("A").tobytes() == soft.getchannel("A").tobytes()
    before, after = (np.asarray(image, np.float64)[16:32, 16:32, :3] for image in (soft, made))
    assert np.abs(after - before).mean() > 10


def test_materials_look_different(soft: Image.Image) -> None:
    """Any two words give clearly different drawings."""
    made = {
        word: np.asarray(make_of(soft, word, np.random.default_rng(0)), np.float64)[16:32, 16:32]
        for word in (*TINTS, *MATERIALS)
    }
    assert min(np.abs(made[a] - made[b]).mean() for a, b in combinations(made, 2)) > 10


def test_patterns_leave_what_is_between(soft: Image.Image) -> None:
    """Stripes and spots cover between a fifth and four fifths of the drawing."""
    for word in ("striped", "spotted"):
        made = np.asarray(make_of(soft, word, np.random.default_rng(0)))[16:32, 16:32, :3]
        same = (made == np.asarray(soft)[16:32, 16:32, :3]).all(-1).mean()
        assert 0.2 < same < 0.8


@pytest.mark.parametrize("hue", [1, 40, 128, 200])
def test_turned_hues_keep_grays(soft: Image.Image, hue: int) -> None:
    """Blacks, grays and whites stay, colors change, the outline stays."""
    grays = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)).convert("RGBA")
    assert turn_hues(grays, hue).tobytes() == grays.tobytes()
    turned = turn_hues(soft, hue)
    assert turned.getchannel("A").tobytes() == soft.getchannel("A").tobytes()
    assert turned.convert("RGB").tobytes() != soft.convert("RGB").tobytes()


@pytest.mark.parametrize("style", FILTERS)
def test_filters_redraw_the_whole_scene(soft: Image.Image, style: str) -> None:
    scene = soft.convert("RGB")
    redrawn = apply_filter(style, scene)
    assert (redrawn.size, redrawn.mode) == (scene.size, "RGB")
    assert np.abs(np.asarray(redrawn, np.float64) - np.asarray(scene, np.float64)).mean() > 5


# Views


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of 30 things in two arts, and one in one art; `noto` is magenta, `twemoji` green."""
    icons = [f"thing-{number}" for number in range(30)] + list(OBJECTS["accessories"])
    made = {
        f"{art}/{icon}": np.full((8, 8, 4), color, np.uint8)
        for icon in icons
        for art, color in (("noto", MAGENTA), ("twemoji", GREEN))
    }
    made["noto/alone"] = np.full((8, 8, 4), MAGENTA, np.uint8)
    path = tmp_path_factory.mktemp("views") / "drawings.npz"
    np.savez(path, **made)  # pyright: ignore[reportArgumentType]
    return plain(World(path, 32, nouns={icon: {"bodies": [icon]} for icon in (*icons[:30], "alone")}, named=0.0))


def test_families_are_all_drawings_by_thing(subjects: World) -> None:
    """Every drawing is in one family, with those of its own icon."""
    families = families_of(subjects)
    assert sorted(key for family in families for key in family.keys) == sorted(subjects.drawings)
    assert all(len({key.split("/")[1] for key in family.keys}) == 1 for family in families)
    assert len({family.keys[0].split("/")[1] for family in families}) == len(families)


@pytest.mark.parametrize("seed", range(5))
def test_subjects_come_in_pairs_of_look_alikes(subjects: World, seed: int) -> None:
    """A pair is one thing by two artists in one hue, or one drawing in two hues; none twice."""
    families = families_of(subjects)
    looks = choose_subjects(families, np.random.default_rng(seed), 2 * len(families))
    assert len(set(looks)) == len(looks) == 2 * len(families)
    kinds: set[str] = set()
    for one, other in zip(looks[::2], looks[1::2], strict=True):
        assert one.drawing.split("/")[1] == other.drawing.split("/")[1]
        assert (one.drawing == other.drawing) != (one.hue == other.hue)
        assert {one.hue, other.hue} <= set(HUES)
        kinds.add("hues" if one.drawing == other.drawing else "artists")
    assert kinds == {"hues", "artists"}
    assert len({look.drawing.split("/")[1] for look in looks}) == len(families)


def test_views_are_images_of_the_subject(subjects: World) -> None:
    """Views show the subject's own color unless recolored; other subjects' views do not."""
    magenta, green = Look("noto/alone"), Look("twemoji/thing-0")
    views = generate_views(subjects, [magenta, green], np.random.default_rng(0), 40)
    assert (views.shape, views.dtype) == ((80, 32, 32, 3), np.uint8)
    assert len({view.tobytes() for view in views}) == 80
    red, other, blue = np.moveaxis(views.astype(np.int64), -1, 0)
    shown = ((red - other > 80) & (blue - other > 80)).mean((1, 2)) > 0.05
    assert shown[:40].mean() > 0.8 * (1 - TRAINING.restyled) * (1 - TRAINING.recolored)
    assert shown[40:].mean() < 0.1


def test_a_seed_decides_views(subjects: World) -> None:
    looks = [Look("noto/thing-0", 40), Look("twemoji/thing-1")]
    first, again, other = (
        generate_views(subjects, looks, np.random.default_rng(seed), 2).tobytes() for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_finishing_is_not_always_the_same(soft: Image.Image) -> None:
    """Light, sharpness and style vary, and some images stay as they were."""
    image, rng = soft.convert("RGB"), np.random.default_rng(0)
    left_alone = [finish(image, rng, PLAIN).tobytes() == image.tobytes() for _ in range(60)]
    assert 0.2 < np.mean(left_alone) < 0.65
    assert not [_ for _ in range(20) if finish(image, rng, Variation(restyled=1)).tobytes() == image.tobytes()]


def test_a_backdrop_can_be_given(large: World) -> None:
    """Scenes in front of one backdrop share its words, and the backdrop itself stays as it was."""
    behind = large.backdrop(np.random.default_rng(1), 1.0)
    before = behind[0].tobytes()
    scenes = [compose(large, np.random.default_rng(seed), behind=behind) for seed in range(12)]
    assert all(caption.endswith(behind[1]) for _, caption in scenes)
    assert len({caption for _, caption in scenes}) > 6
    assert behind[0].tobytes() == before
