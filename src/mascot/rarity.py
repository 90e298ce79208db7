"""Rare words: what of a tokenizer's vocabulary is short, whole, seldom used, and no word that is known to mean something.

The paper draws its identifiers from the rare part of its tokenizer's vocabulary (Ruiz et al. 2023, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mascot.generation import prompt_sets
from mascot.subject import FOLKLORE

RARE: Mapping[str, float] = {"BPE": 0.9, "Unigram": 5000 / 32000}
"""Kind of tokenizer -> the share of its vocabulary, most frequent pieces first, after which short words count as rare.

Unigram: the paper's range begins at id 5,000 of the T5-XXL's 32,000. It ends at 10,000; what is rarer still is let in, because a word
has to be one token to all of a base's tokenizers. BPE, whose ids count merges: the last tenth. In CLIP's vocabulary (49,408) the
paper's shares hold 695 short words, mostly words, names and abbreviations (pig, ibm, nba), as short words are merged early.
"""
LONGEST = 3
"""Letters of a token at most (the paper's own)."""
NOUNS = tuple(
    "dog car tree cup house bird shoe clock cat boat flower guitar fish cake horse ball bear bus apple hat rabbit rocket teapot backpack "
    "fox robot mushroom candle owl toy butterfly bowl pig panda vase monster elephant glasses cow lion monkey penguin duck frog turtle "
    "whale dinosaur ghost gun rifle".split()
)
"""What candidates are compared with, as far as they are one token to a base. The first few are drawn, too."""
SHORT_WORDS = frozenset(
    (
        "aa ab abu ac ace act ad ada add ae age ago ah aha ai aid aids ail aim air ale ali all am amd amy an and ann ant any aol ape api "
        "app apr apt arc are ark arm art as asap ash ask ass at ate atm au aug aux ave awe awl ax axe aye baa bad bae bag ban bar bat bay "
        "bbc be bed bee beg ben bet bff bib bid big bin bio bit bmw boa bob bog boo bot bow box boy bra bro btw bud bug bum bun bus but "
        "buy by bye ca cab cad cam can cap car cat caw cbs cd ceo ces cfo che cia cm cnn cob cod cog com con coo cop cot cow coy cpu cry "
        "css cto cub cud cue cup cur cut dab dad dam dan das day dc de dec dei del dem den der des dew dhl did die dig dim din dip diy dj "
        "dna do doe dog don dot dr dry du dub dud due dug dun duo dvd dye ear eat ebb eco edu eel egg ego ein eke el elf eli elk elm emu "
        "en end era es est et eu eva eve ewe eye fad fan faq far fat fax fbi feb fed fee few fib fig fin fir fit fix fl flu fly foe fog "
        "for fox fri fro fry ft fun fur fyi gab gag gal gap gas gay gel gem get ghz gif gig gin gli gmc go god got gov gps gpu gum gun "
        "gut guy gym ha had hag ham has hat hay hbo he hem hen her hew hex hey hi hid him hip his hit hiv hm hmm hoe hog hop hot how hp "
        "hub hue hug hum hut hz ian ibm ice icy idk if il ill imp in ink inn ion ire irk irs is ist it its ivy jab jam jan jar jaw jay "
        "jet jig jim job joe jog jon jot joy jpg jr jug jul jun kai keg key kfc kg khz kia kid kim kin kit km la lab lad lag lap las law "
        "lax lay lb lbs lcd le lea led lee leg leo les let lg li lid lie lip lit lo lob log lol los lot low lug ma mad man map mar mat "
        "maw max may mba mc me meh men mes met mg mia mid min mit mix ml mlb mm mob mod mom mon moo mop mow mph mr mri mrs ms mtv mud mug "
        "mum my nag nap nba nbc nel net new nfl nhl nib nil nip nit nj no nod non nor not nov now nsa nun nut ny nyc nz oak oar oat oct "
        "odd ode of off oh oil ok old omg on one opt or orb ore org ou our out ow owe owl own ox oz pa pad pal pan par pas pat paw pay pc "
        "pdf pea peg pen pep per pet pew phd php pi pie pig pin pit ply pm png pod pop por pot pox pro pry pub pug pun pup pus put que "
        "qui rag ram ran rap rat raw ray rd red rib rid rig rim rip rna rob rod roe rom ron rot row roy rub rug rum run rut rye sad sag "
        "sam sap sat saw say se sea see sep set sew sf she shh shy si sin sip sir sis sit six ski sky sly smh so sob sod son sow soy spa "
        "spf spy sql sr ssd st sty sub sue sum sun sup sur tab tag tan tap tar tax tbt tea ted ten the thu thy tic tie tim tin tip to toe "
        "tom ton too top tow toy try tub tue tug tux tv two tx uae ufc ufo ugh uh uk um un una und une up ups urn us usa usb use van vat "
        "vet vex via vie vim vip von vow vs vw wad wag war was wax way we web wed wee wet who why wig win wit woe won wow wry wtf wu wwe "
        "www xi xml yak yam yap yaw yay ye yen yes yet yew yo you yu zap zen zip zit zoe zoo zur "
    ).split()
)
"""Short words of English and its neighbours, names, units and abbreviations: what can be known without the base to mean something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How one tokenizer of a base cuts a word."""

    encoder: str
    """The text encoder that it is for."""
    pieces: tuple[str, ...]
    rank: int | None
    """Its id, which counts from the most frequent piece on; None where it is not one token."""
    size: int
    """Pieces of the vocabulary."""

    def describe(self) -> str:
        """Say it in words: `text_encoder: one token, 48136 of 49406`."""
        if self.rank is None:
            return f"{self.encoder}: {len(self.pieces)} tokens ({' '.join(self.pieces)})"
        return f"{self.encoder}: one token, {self.rank} of {self.size}"


def spell(tokenizers: Mapping[str, Any], word: str) -> tuple[Spelling, ...]:
    """Cut a word with each tokenizer."""
    spellings: list[Spelling] = []
    for encoder, tokenizer in tokenizers.items():
        ids: list[int] = tokenizer(word, add_special_tokens=False).input_ids
        one = len(ids) == 1 and ids[0] != tokenizer.unk_token_id
        pieces = tuple(tokenizer.convert_ids_to_tokens(ids))
        spellings.append(Spelling(encoder=encoder, pieces=pieces, rank=ids[0] if one else None, size=size_of(tokenizer)))
    return tuple(spellings)


def size_of(tokenizer: Any) -> int:
    """Pieces of a vocabulary, without what was added to it afterwards: a T5's hundred sentinels."""
    return len(tokenizer.get_vocab().keys() - set(tokenizer.get_added_vocab()))


def is_one_token(tokenizers: Mapping[str, Any], word: str) -> bool:
    """Whether every tokenizer keeps a word whole."""
    return all(spelling.rank is not None for spelling in spell(tokenizers, word))


def rare_words(tokenizers: Mapping[str, Any]) -> list[str]:
    """Words of 1 to 3 small letters that are one token to every tokenizer, rare in each, and no known word; in alphabetical order."""
    found = [rare_in(tokenizer) for tokenizer in tokenizers.values()]
    return sorted(set[str].intersection(*found) - known_words())


def rare_in(tokenizer: Any) -> set[str]:
    """Words of 1 to 3 small letters that are one token of one tokenizer, in the rare part of its vocabulary.

    A piece is a whole word where the word alone is cut into just that piece: `</w>` ends one in CLIP, U+2581 begins one in a T5.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    least = RARE[type(tokenizer.backend_tokenizer.model).__name__] * size_of(tokenizer)
    pieces = [(piece.removesuffix("</w>").removeprefix("\u2581"), rank) for piece, rank in vocabulary.items() if rank >= least]
    short = [(word, rank) for word, rank in pieces if re.fullmatch(rf"[a-z]{{1,{LONGEST}}}", word)]
    return {word for word, rank in short if tokenizer(word, add_special_tokens=False).input_ids == [rank]}


def known_words() -> set[str]:
    """Words that mean something for sure: those of our prompts, nouns, short English words, abbreviations; and `sks`, told apart."""
    suites = (prompt_sets.STARTER, prompt_sets.STARTER_VALIDATION, prompt_sets.PAPER)
    texts = [text for suite in suites for text in (*suite.things, *suite.live)]
    texts += [*prompt_sets.PREVIEWS, *(text for group in prompt_sets.CONTEXTS.values() for text in group)]
    return {*re.findall(r"[a-z]+", " ".join(texts).lower()), *NOUNS, *prompt_sets.LIVE_NOUNS, *SHORT_WORDS, FOLKLORE}
