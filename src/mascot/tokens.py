"""Find a token: a rare word of a base's own vocabulary that means nothing to it yet, checked with the base itself.

The paper draws its identifiers from the rare part of its tokenizer's vocabulary (Ruiz et al. 2023, section 3.2). Rare is not yet empty: a
word may be an airline, or a rifle. So each candidate is read by the base's text encoders and drawn by the base, beside nouns that the
base knows: a good token reads like no noun, its pictures are unlike each other, and they match no noun's prompt.

Shape suffixes: B pictures, K nouns, F the numbers of a conditioning in one row, D width of an embedding.
"""

from __future__ import annotations

import itertools
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mascot import prompts
from mascot.captions import fill
from mascot.errors import UserError
from mascot.families import load_family
from mascot.gallery import Gallery, weights_name
from mascot.generator import Generator, Knobs, Shot
from mascot.judges import Judges, judges_for
from mascot.metrics.subject import real_similarity
from mascot.pipelines import LoadedStage
from mascot.prior import cache_folder
from mascot.progress import Progress, silent
from mascot.protocols import Framing
from mascot.subject import Subject

RARE: Mapping[str, float] = {"BPE": 0.9, "Unigram": 5000 / 32000}
"""Kind of tokenizer -> the share of its vocabulary, most frequent pieces first, after which short words count as rare.

Unigram: the paper's range begins at id 5,000 of the T5-XXL's 32,000. It ends at 10,000; what is rarer still is let in, because a word
has to be one token to all of a base's tokenizers. BPE, whose ids count merges: the last tenth. In CLIP's vocabulary (49,408) the
paper's shares hold 695 short words, mostly words, names and abbreviations (pig, ibm, nba), as short words are merged early.
"""
LONGEST = 3
"""Letters of a token at most (the paper's own)."""
FOLKLORE = "sks"
"""What most tutorials call their subject."""
FOLKLORE_NOTE = "It is folklore, not from the paper; a base that has learned from the web's captions knows a rifle of that name."
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
REFERENCES = 8
"""Nouns that are drawn, to see what pictures of something are like."""
READ = 4
"""Candidates that are read for each one that is drawn: reading is cheap."""
LITTLE = 0.5
"""A token that means less than this, of a noun's 1, is said to mean little."""
SPREAD = 0.02
"""Nouns and other things must differ by this cosine at least; between closer ends nothing can be placed."""
PHOTO = "a photo of a {subject}"
KNOBS = Knobs(guidance=5.0, steps=12)
"""Few steps: what a word means shows early."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One sign that a word means something."""

    value: float
    """What was measured: a cosine."""
    meaning: float | None
    """The same on a scale: 0 as for different things, 1 as for a noun; None where the base's own nouns give no scale."""
    noun: str | None = None
    """The noun that it is nearest to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A word, and what it means to a base. Low numbers are good."""

    token: str
    spellings: tuple[Spelling, ...]
    read: Sign
    """How near its conditioning is to the nearest noun's."""
    alike: Sign
    """How alike its pictures are to each other."""
    matched: Sign
    """How well its pictures match the best of all nouns' prompts."""
    pictures: tuple[Path, ...]

    @property
    def meaning(self) -> float:
        """The mean of its signs, from 0: nothing in particular; 1 is as much as a noun.

        Each sign alone is weak: the best of fifty matches is high by chance, and four pictures are few.
        """
        signs = (self.read, self.alike, self.matched)
        return statistics.mean(max(0.0, sign.meaning) for sign in signs if sign.meaning is not None)

    @property
    def why(self) -> str:
        """Why it stands where it does, in one sentence."""
        alike = f"its {len(self.pictures)} pictures are {share(self.alike)} as alike as a noun's"
        matched = f"they match {self.matched.noun} best, {share(self.matched)} as well as a noun's own match it"
        lead = "means little" if self.meaning < LITTLE else "means something"
        return f"{lead}: it reads most like {self.read.noun} ({share(self.read)} of the way to it), {alike}, and {matched}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found in a base."""

    tokens: tuple[Candidate, ...]
    """The best first."""
    folklore: Candidate
    """`sks`, for comparison."""
    rare: int
    """Words that were rare enough to be considered."""
    nouns: tuple[str, ...]
    """What was drawn for comparison."""
    judges: Mapping[str, str]
    """Which encoders looked at the pictures."""


def share(sign: Sign) -> str:
    """Write a sign in percent of a noun's."""
    return "(this base's nouns give no scale)" if sign.meaning is None else f"{max(0.0, sign.meaning):.0%}"


def tokenizers_of(generator: Generator) -> Mapping[str, Any]:
    """The tokenizers that hear a base's prompts, by the names of their text encoders."""
    stage = generator.family.stages[0]  # the later stages of a cascade hear through the first one
    assert isinstance(stage, LoadedStage)
    return stage.tokenizers


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
    suites = (prompts.STARTER, prompts.STARTER_VALIDATION, prompts.PAPER)
    texts = [text for suite in suites for text in (*suite.things, *suite.live)]
    texts += [*prompts.PREVIEWS, *(text for group in prompts.CONTEXTS.values() for text in group)]
    return {*re.findall(r"[a-z]+", " ".join(texts).lower()), *NOUNS, *prompts.LIVE_NOUNS, *SHORT_WORDS, FOLKLORE}


class Examiner:
    """Asks a base what words mean to it, on the scale of what it makes of nouns; pictures are kept in a gallery.

    Picture k of every word has the seed `seed + k`. Raises UserError where the base's vocabulary has no nouns to compare with.
    """

    def __init__(
        self, generator: Generator, judges: Judges, gallery: Gallery, *, knobs: Knobs = KNOBS, pictures: int = 4, seed: int = 0
    ) -> None:
        assert pictures > 1, "one picture is unlike nothing"
        self.generator, self.judges, self.gallery, self.knobs = generator, judges, gallery, knobs
        self.seeds = range(seed, seed + pictures)
        self.tokenizers = tokenizers_of(generator)
        self.nouns = tuple(noun for noun in NOUNS if is_one_token(self.tokenizers, noun))
        if len(self.nouns) < 2:
            raise UserError("this base's vocabulary has no nouns to compare tokens with; choose a token yourself (--token).")

    def examine(self, words: Sequence[str], progress: Progress = silent) -> list[Candidate]:
        """Read and draw words, and say what each means to the base, in their order."""
        drawn = self.draw([*words, *self.references], progress)
        seen = {word: self.gallery.embed(self.judges.identity, paths) for word, paths in drawn.items()}
        matches = {word: self.match(paths) for word, paths in drawn.items()}
        different, same = ends_of_alike([seen[noun] for noun in self.references])
        other, own = ends_of_match({noun: matches[noun] for noun in self.references}, self.nouns)
        candidates: list[Candidate] = []
        for word in words:
            alike, best = real_similarity(seen[word]), int(matches[word].argmax())
            assert alike is not None
            match = float(matches[word][best])
            candidates.append(
                Candidate(
                    token=word,
                    spellings=spell(self.tokenizers, word),
                    read=self.read(word),
                    alike=Sign(value=alike, meaning=placed(alike, different, same)),
                    matched=Sign(value=match, meaning=placed(match, other, own), noun=self.nouns[best]),
                    pictures=tuple(drawn[word]),
                )
            )
        return candidates

    def find(self, *, count: int = 5, candidates: int = 16, progress: Progress = silent) -> list[Candidate]:
        """Find the `count` best tokens, best first.

        Rare words are sampled without replacement, as in the paper, and read; the `candidates` that read least like a noun are drawn.

        Raises:
            UserError: no word of the base's vocabulary is rare, short and unknown; or pictures cannot be drawn or kept.
        """
        words = rare_words(self.tokenizers)
        if not words:
            raise UserError("no short rare word is one token to all text encoders of this base; choose a token yourself (--token).")
        sampled = random.Random(self.seeds[0]).sample(words, min(len(words), READ * candidates))
        chosen = sorted(sampled, key=lambda word: (self.read(word).value, word))[:candidates]
        return sorted(self.examine(chosen, progress), key=lambda candidate: (candidate.meaning, candidate.token))[:count]

    @property
    def references(self) -> tuple[str, ...]:
        """The nouns that are drawn."""
        return self.nouns[:REFERENCES]

    def draw(self, words: Sequence[str], progress: Progress = silent) -> dict[str, list[Path]]:
        """Draw each word in as many pictures as there are seeds."""
        words = list(dict.fromkeys(words))
        shots = [Shot(prompt_of(word), seed) for word in words for seed in self.seeds]
        progress("pictures", len(shots))
        paths: list[Path] = []
        for path in self.gallery.pictures(self.generator, shots, self.knobs, weights_name(self.generator.family)):
            progress("picture", path)
            paths.append(path)
        count = len(self.seeds)
        return {word: paths[place * count : (place + 1) * count] for place, word in enumerate(words)}

    def match(self, paths: Sequence[Path]) -> Tensor:
        """CLIP-T of some pictures with every noun's prompt. Shape K, float64."""
        pictures_BD, prompts_KD = self.gallery.embed(self.judges.clip, paths), self.noun_prompts
        return (pictures_BD.double() @ prompts_KD.double().T).mean(dim=0)

    @cached_property
    def noun_prompts(self) -> Tensor:
        """The nouns' prompts as CLIP embeds them. Shape K x D."""
        return self.judges.clip.embed_prompts([prompt_of(noun) for noun in self.nouns])

    def read(self, word: str) -> Sign:
        """The highest cosine of a word's conditioning and a noun's, after what all nouns have in common is taken off."""
        cosines: list[Tensor] = []
        told = self.condition(word)
        for name, (centre_F, rows_KF) in self.noun_conditionings.items():
            cosines.append(rows_KF @ F.normalize(told[name] - centre_F, dim=0))
        cosine_K = torch.stack(cosines).mean(dim=0)
        if word in self.nouns:
            cosine_K[self.nouns.index(word)] = -1
        best = int(cosine_K.argmax())
        return Sign(value=float(cosine_K[best]), meaning=float(cosine_K[best]), noun=self.nouns[best])

    @cached_property
    def noun_conditionings(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """By name of a tensor: the nouns' mean, F, and each noun's direction from it, K x F.

        Tensors that do not tell nouns apart are left out.
        """
        told = [self.condition(noun) for noun in self.nouns]
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in told[0]:
            rows_KF = torch.stack([conditioning[name] for conditioning in told])
            centre_F = rows_KF.mean(dim=0)
            if not torch.allclose(rows_KF, centre_F):
                found[name] = centre_F, F.normalize(rows_KF - centre_F, dim=1)
        assert found, "a base hears its prompts"
        return found

    @torch.no_grad()
    def condition(self, word: str) -> dict[str, Tensor]:
        """What the base's first denoiser is told of a word alone, each tensor in one row, float32, on the CPU."""
        stage = self.generator.family.stages[0]
        framing = Framing(original=(stage.resolution, stage.resolution), target=(stage.resolution, stage.resolution))
        return {name: value.float().cpu().flatten() for name, value in stage.condition([prompt_of(word)], [framing]).items()}


def prompt_of(word: str) -> str:
    """The prompt by which a word is read and drawn."""
    return fill(PHOTO, Subject(token=word))


def ends_of_alike(groups: Sequence[Tensor]) -> tuple[float, float]:
    """How alike pictures of different nouns are, and pictures of one noun; only pictures of different seeds are compared."""
    same = [real_similarity(group_BD) or 0.0 for group_BD in groups]
    different: list[float] = []
    for one_BD, other_BD in itertools.combinations(groups, 2):
        cosines_BB = one_BD.double() @ other_BD.double().T
        different.append(float((cosines_BB.sum() - cosines_BB.trace()) / (cosines_BB.numel() - len(cosines_BB))))
    return statistics.mean(different), statistics.mean(same)


def ends_of_match(matches: Mapping[str, Tensor], nouns: Sequence[str]) -> tuple[float, float]:
    """How well nouns' pictures match other nouns' prompts on average, and their own; a match has shape K, one for each of the nouns."""
    own = [float(match_K[nouns.index(noun)]) for noun, match_K in matches.items()]
    other = [(float(match_K.sum()) - mine) / (len(nouns) - 1) for match_K, mine in zip(matches.values(), own, strict=True)]
    return statistics.mean(other), statistics.mean(own)


def placed(value: float, nothing: float, noun: float) -> float | None:
    """Put a value on the scale from nothing (0) to a noun (1); None where the two are too near each other to tell."""
    return (value - nothing) / (noun - nothing) if noun - nothing >= SPREAD else None


def find_tokens(
    generator: Generator,
    judges: Judges,
    gallery: Gallery,
    *,
    count: int = 5,
    candidates: int = 16,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Candidate]:
    """Find the `count` best tokens of a loaded base, best first; the same for the same seed. See `Examiner.find`.

    Raises:
        UserError: the base's vocabulary has no suitable word, or pictures cannot be drawn or kept.
    """
    return Examiner(generator, judges, gallery, seed=seed).find(count=count, candidates=candidates, progress=progress)


def search(
    base: str, *, count: int = 5, candidates: int = 16, seed: int = 0, device: str = "cpu", folder: Path | None = None,
    progress: Progress = silent,
) -> Findings:  # fmt: skip
    """Load a base and its judges, find tokens, and look at `sks` too; pictures are kept in `folder`, by default in the user's cache.

    Raises:
        UserError: the base or a judge cannot be loaded, its vocabulary has no suitable word, or pictures cannot be drawn or kept.
    """
    examiner = open_examiner(base, seed=seed, device=device, folder=folder)
    tokens = examiner.find(count=count, candidates=candidates, progress=progress)
    return Findings(
        tokens=tuple(tokens),
        folklore=examiner.examine([FOLKLORE], progress)[0],
        rare=len(rare_words(examiner.tokenizers)),
        nouns=examiner.references,
        judges=examiner.judges.describe(),
    )


def usual_token(base: str, *, device: str = "cpu", folder: Path | None = None) -> str:
    """Choose the token for a user who names none: the best that is found with the usual settings, the same every time.

    It costs loading the base and its judges, and the first time 96 pictures of 12 steps: on the embedded base 30 seconds of one CPU core,
    8 seconds from the second time on. On a large base it wants an accelerator.
    Where the base is loaded anyway, `find_tokens` spares that part. Pictures are kept as `search` keeps them.

    Raises:
        UserError: see `search`.
    """
    return open_examiner(base, device=device, folder=folder).find(count=1)[0].token


def open_examiner(base: str, *, seed: int = 0, device: str = "cpu", folder: Path | None = None) -> Examiner:
    """Load a base and the encoders that judge it; pictures are kept in `folder`, by default in the user's cache.

    Raises:
        UserError: the base or a judge cannot be loaded, or the base's vocabulary has no noun to compare with.
    """
    generator = Generator(load_family(base, device=device, precision="fp32" if device == "cpu" else "bf16"))
    return Examiner(generator, judges_for(base, device=device), Gallery(folder or cache_folder() / "tokens"), seed=seed)


def rows_of(findings: Findings) -> list[tuple[str, str]]:
    """What a terminal shows: a row for each token and for `sks`, then what was considered and who judged."""
    rows = [(candidate.token, describe(candidate)) for candidate in findings.tokens]
    rows.append((FOLKLORE, f"{describe(findings.folklore)} {FOLKLORE_NOTE}"))
    rows.append(
        ("considered", f"{findings.rare} words of 1 to {LONGEST} letters that are rare in this base's vocabulary and no known words")
    )
    rows.append(("compared with", f"pictures of {', '.join(findings.nouns)}; 0 is nothing in particular, 1 as much as a noun"))
    return [*rows, *((f"judge of {what}", line) for what, line in findings.judges.items())]


def describe(candidate: Candidate) -> str:
    """All numbers of a candidate in one line."""
    spelled = "; ".join(spelling.describe() for spelling in candidate.spellings)
    return f"{candidate.meaning:.2f}: {candidate.why} {spelled}."
