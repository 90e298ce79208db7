"""Word lists for the token search: nouns to compare with, and short words that are known."""

from __future__ import annotations

NOUNS = tuple(
    (
        "dog car tree cup house bird shoe clock cat boat flower guitar fish cake horse ball bear "
        "bus apple hat rabbit rocket teapot backpack fox robot mushroom candle owl toy butterfly "
        "bowl pig panda vase monster elephant glasses cow lion monkey penguin duck frog turtle "
        "whale dinosaur ghost gun rifle"
    ).split()
)
"""Nouns that candidates are compared with, where they are one token of the base model.

Images are generated of the first few.
"""

SHORT_WORDS = frozenset(
    (
        "aa ab abu ac ace act ad ada add ae age ago ah aha ai aid aids ail aim air ale ali all am "
        "amd amy an and ann ant any aol ape api app apr apt arc are ark arm art as asap ash ask "
        "ass at ate atm au aug aux ave awe awl ax axe aye baa bad bae bag ban bar bat bay bbc be "
        "bed bee beg ben bet bff bib bid big bin bio bit bmw boa bob bog boo bot bow box boy bra "
        "bro btw bud bug bum bun bus but buy by bye ca cab cad cam can cap car cat caw cbs cd ceo "
        "ces cfo che cia cm cnn cob cod cog com con coo cop cot cow coy cpu cry css cto cub cud "
        "cue cup cur cut dab dad dam dan das day dc de dec dei del dem den der des dew dhl did "
        "die dig dim din dip diy dj dna do doe dog don dot dr dry du dub dud due dug dun duo dvd "
        "dye ear eat ebb eco edu eel egg ego ein eke el elf eli elk elm emu en end era es est et "
        "eu eva eve ewe eye fad fan faq far fat fax fbi feb fed fee few fib fig fin fir fit fix "
        "fl flu fly foe fog for fox fri fro fry ft fun fur fyi gab gag gal gap gas gay gel gem "
        "get ghz gif gig gin gli gmc go god got gov gps gpu gum gun gut guy gym ha had hag ham "
        "has hat hay hbo he hem hen her hew hex hey hi hid him hip his hit hiv hm hmm hoe hog hop "
        "hot how hp hub hue hug hum hut hz ian ibm ice icy idk if il ill imp in ink inn ion ire "
        "irk irs is ist it its ivy jab jam jan jar jaw jay jet jig jim job joe jog jon jot joy "
        "jpg jr jug jul jun kai keg key kfc kg khz kia kid kim kin kit km la lab lad lag lap las "
        "law lax lay lb lbs lcd le lea led lee leg leo les let lg li lid lie lip lit lo lob log "
        "lol los lot low lug ma mad man map mar mat maw max may mba mc me meh men mes met mg mia "
        "mid min mit mix ml mlb mm mob mod mom mon moo mop mow mph mr mri mrs ms mtv mud mug mum "
        "my nag nap nba nbc nel net new nfl nhl nib nil nip nit nj no nod non nor not nov now nsa "
        "nun nut ny nyc nz oak oar oat oct odd ode of off oh oil ok old omg on one opt or orb ore "
        "org ou our out ow owe owl own ox oz pa pad pal pan par pas pat paw pay pc pdf pea peg "
        "pen pep per pet pew phd php pi pie pig pin pit ply pm png pod pop por pot pox pro pry "
        "pub pug pun pup pus put que qui rag ram ran rap rat raw ray rd red rib rid rig rim rip "
        "rna rob rod roe rom ron rot row roy rub rug rum run rut rye sad sag sam sap sat saw say "
        "se sea see sep set sew sf she shh shy si sin sip sir sis sit six ski sky sly smh so sob "
        "sod son sow soy spa spf spy sql sr ssd st sty sub sue sum sun sup sur tab tag tan tap "
        "tar tax tbt tea ted ten the thu thy tic tie tim tin tip to toe tom ton too top tow toy "
        "try tub tue tug tux tv two tx uae ufc ufo ugh uh uk um un una und une up ups urn us usa "
        "usb use van vat vet vex via vie vim vip von vow vs vw wad wag war was wax way we web wed "
        "wee wet who why wig win wit woe won wow wry wtf wu wwe www xi xml yak yam yap yaw yay ye "
        "yen yes yet yew yo you yu zap zen zip zit zoe zoo zur"
    ).split()
)
"""Short words of English and related languages, names, units and abbreviations.

They have a meaning whatever the base model is, and are never candidates.
"""
