"""Laws of live subjects: people, animals and beings are live, things named after them are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mascot.evaluation.selection.word_lists import NOUNS
from mascot.generation.prompts.live_nouns import LIVE_NOUNS, LIVE_PHRASES, OBJECT_PHRASES, is_live

LIVE = (
    "person,man,woman,boy,girl,child,baby,people,women,children,firemen,grandmother,nurse,astronaut,chef,"
    "puppy,kitten,hedgehog,foal,lamb,duckling,puppies,kitties,wolves,calves,mice,geese,foxes,butterflies,"
    "corgi,dachshund,golden retriever,golden retriever puppy,Golden-Retriever,german shepherd,toy poodle,"
    "maine coon,shih tzu,guinea pig,sea lion,polar bear,great horned owl,t-rex,T rex,dragon,unicorn,robot,"
    "a dog, Dog ,black and white cat,dog with a hat,girl in a red dress,cat on a sofa,football player,"
    "chocolate labrador,monitor lizard,snowman,yak,emu,gorilla,elephant,parrot,goldfish,octopuses,my dog"
).split(",")
THINGS = (
    "backpack,vase,clock,sneaker,glasses,cartoon,dandelion,bus,guitar,teapot,plushie,"
    "toy,toy dog,dog toy,plush bear,bear plushie,stuffed animal,stuffed bear,teddy bear,teddy bears,ceramic cat,"
    "rubber duck,rubber ducks,hot dog,hot dogs,Hot-Dog,gummy bear,sock monkey,rocking horse,wooden horse,"
    "statue of a dog,dog statue,dog house,cat tree,bird cage,dog bowl,bowl for a dog,horse saddle,"
    "computer mouse,baseball bat,record player,car,model car,dragon fruit,tiger lily,fish and chips,"
    "chicken nugget,roast chicken,man's hat,woman's shoe,baby shoes,queen bed,robot arm,piggy bank,monitor"
).split(",")


@pytest.mark.parametrize("noun", LIVE)
def test_people_animals_and_beings_are_live(noun: str) -> None:
    assert is_live(noun)


@pytest.mark.parametrize("noun", THINGS)
def test_things_are_not_live_even_if_they_are_named_after_one(noun: str) -> None:
    assert not is_live(noun)


@pytest.mark.parametrize("noun", [None, "", " ", "?", "xyzzy"])
def test_what_is_not_known_is_an_object(noun: str | None) -> None:
    assert not is_live(noun)


def test_real_subjects_are_what_their_data_set_calls_them(shared_data: Path) -> None:
    table = (shared_data / "dreambooth" / "prompts_and_classes.txt").read_text(encoding="utf-8")
    classes = {line.split(",")[1] for line in table.split("Prompts")[0].splitlines() if line.count(",") == 1}
    assert {noun for noun in classes if is_live(noun)} == {"cat", "dog"}


def test_the_lists_hold_hundreds_of_single_words_and_no_contradiction() -> None:
    assert len(LIVE_NOUNS) > 800
    assert all(noun.isalpha() and noun.islower() for noun in LIVE_NOUNS)
    assert not LIVE_PHRASES & OBJECT_PHRASES
    assert all(is_live(phrase) for phrase in LIVE_PHRASES)
    assert not any(is_live(phrase) for phrase in OBJECT_PHRASES)
    assert {"dog", "owl", "panda"} <= {noun for noun in NOUNS if is_live(noun)}
