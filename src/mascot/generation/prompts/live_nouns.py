"""Nouns of people, animals and other beings, which can wear things; everything else is an object.

The lists were written for mascot; they are under its licence.
"""

from __future__ import annotations

import re

PEOPLE = frozenset(
    """
    person human people man woman boy girl child kid baby infant toddler newborn teen teenager
    adult youth youngster lad lass guy dude gal gentleman lady senior elder pensioner grownup folk
    mother mom mum mommy mummy mama father dad daddy papa parent grandparent grandmother grandma
    granny grandfather grandpa grandson granddaughter grandchild sister brother sibling twin triplet
    son daughter aunt auntie uncle cousin niece nephew husband wife spouse bride groom bridegroom
    bridesmaid fiance fiancee widow widower boyfriend girlfriend friend neighbor neighbour family
    couple godmother godfather stepmother stepfather orphan
    actor actress artist painter sculptor singer rapper musician pianist guitarist drummer violinist
    cellist composer dancer ballerina clown mime comedian magician juggler acrobat influencer vlogger
    blogger youtuber streamer celebrity writer author poet novelist journalist reporter photographer
    cameraman filmmaker presenter
    doctor nurse surgeon dentist physician paramedic midwife pharmacist veterinarian vet therapist
    psychologist patient scientist chemist physicist biologist astronomer mathematician engineer
    programmer architect inventor professor teacher student pupil schoolboy schoolgirl librarian
    scholar lawyer attorney judge accountant banker manager boss businessman businesswoman
    entrepreneur secretary receptionist clerk cashier salesman saleswoman shopkeeper customer
    chef baker butcher waiter waitress barista bartender barman barmaid butler maid
    nanny babysitter gardener farmer fisherman hunter shepherd cowboy cowgirl rancher miner carpenter
    plumber electrician mechanic welder bricklayer builder blacksmith tailor seamstress cobbler potter
    barber hairdresser stylist fashionista janitor mailman postman courier
    policeman policewoman cop sheriff detective firefighter fireman soldier sailor marine pilot
    astronaut cosmonaut stewardess steward captain admiral general colonel lieutenant sergeant spy
    bodyguard lifeguard prisoner thief burglar pirate bandit outlaw gangster athlete footballer
    goalkeeper quarterback golfer gymnast wrestler swimmer surfer skier snowboarder skateboarder
    skater runner jogger sprinter cyclist biker motorcyclist jockey equestrian climber mountaineer
    hiker backpacker tourist traveler traveller explorer sumo judoka karateka referee cheerleader
    king queen prince princess emperor empress duke duchess baron baroness knight squire peasant
    pharaoh sultan samurai ninja geisha viking gladiator warrior archer spartan crusader musketeer
    pope priest monk nun bishop rabbi imam pastor vicar missionary pilgrim saint prophet
    president mayor senator politician diplomat ambassador
    wizard witch sorcerer sorceress warlock druid shaman superhero superheroine superman batman
    spiderman villain hero heroine cosplayer gamer hacker nerd hippie punk goth nomad caveman cavewoman
    cartoonist carer caregiver stranger passenger pedestrian commuter driver chauffeur santa
    american african asian european indian chinese japanese korean german italian
    """.split()
)
"""People by age, kin, work, sport and rank."""

ANIMALS = frozenset(
    """
    animal pet beast creature critter mammal bird fish reptile amphibian insect rodent carnivore
    herbivore predator livestock wildlife
    dog doggy doggie doggo puppy pup pupper hound mutt mongrel cur retriever labrador lab
    labradoodle goldendoodle cockapoo cavapoo cavoodle maltipoo puggle pomsky poodle spaniel
    terrier yorkie westie shepherd sheepdog cattledog collie corgi dachshund beagle et bloodhound
    greyhound whippet wolfhound deerhound foxhound coonhound elkhound boxer bulldog pitbull mastiff
    bullmastiff rottweiler doberman dobermann pinscher schnauzer husky malamute samoyed akita shiba
    chihuahua pug pekingese pekinese pomeranian pom papillon maltese havanese bichon shihtzu tzu
    apso dalmatian setter pointer weimaraner vizsla ridgeback newfoundland leonberger dane pei
    basenji saluki borzoi komondor puli kelpie heeler affenpinscher griffon keeshond schipperke
    spitz eskimo chow pyrenees bernese malinois tervuren briard bouvier lurcher kuvasz azawakh
    cat kitty kitten kittycat tomcat tom tabby calico tortie moggy siamese persian sphynx ragdoll
    birman burmese bengal coon shorthair longhair abyssinian munchkin tonkinese savannah manx bobtail
    wolf fox vixen coyote jackal dingo hyena dhole fennec
    lion lioness cub tiger tigress leopard panther jaguar puma cougar cheetah lynx bobcat ocelot
    caracal serval margay wildcat bear grizzly panda koala sloth raccoon coati kinkajou skunk badger
    otter weasel stoat ferret mink polecat marten sable wolverine mongoose meerkat civet genet
    binturong fossa honeybadger
    horse pony foal colt filly mare stallion gelding mustang clydesdale appaloosa lipizzaner
    thoroughbred palomino donkey burro mule zebra
    cow bull calf heifer steer ox cattle bullock buffalo bison yak zebu gaur banteng
    pig piglet hog sow boar swine warthog peccary tapir sheep lamb ewe ram goat billy kid ibex
    chamois mouflon deer doe fawn stag buck hart hind roe elk moose reindeer caribou antelope gazelle
    impala kudu oryx eland gnu wildebeest springbok okapi giraffe camel dromedary llama alpaca
    vicuna guanaco elephant mammoth rhinoceros rhino hippopotamus hippo
    monkey ape chimpanzee chimp bonobo gorilla orangutan gibbon baboon mandrill macaque capuchin
    marmoset tamarin lemur loris tarsier galago bushbaby langur colobus howler
    kangaroo wallaby joey wombat opossum possum bandicoot bilby quokka numbat quoll
    platypus echidna aardvark anteater armadillo pangolin hedgehog porcupine shrew mole
    mouse rat hamster gerbil cavy squirrel chipmunk beaver muskrat marmot groundhog
    woodchuck gopher vole lemming chinchilla degu capybara nutria agouti dormouse jerboa
    rabbit bunny hare pika leveret bat
    whale dolphin porpoise orca narwhal beluga seal walrus manatee dugong
    birdie chick chicken hen cock rooster cockerel pullet bantam turkey duck duckling drake mallard
    goose gosling gander swan cygnet pheasant partridge quail grouse peacock peahen peafowl guineafowl
    pigeon dove parrot parakeet budgie budgerigar cockatoo cockatiel macaw lorikeet lovebird conure
    owl owlet eagle eaglet hawk falcon kestrel buzzard vulture condor osprey harrier goshawk
    crow raven rook jackdaw magpie jay sparrow finch goldfinch bullfinch chaffinch canary robin
    bluebird blackbird thrush nightingale lark skylark wren warbler swallow martin swift starling
    oriole cardinal tanager bunting mouse chickadee nuthatch woodpecker kingfisher
    kookaburra hoopoe hornbill toucan hummingbird cuckoo roadrunner
    penguin puffin gull seagull tern albatross petrel pelican cormorant gannet heron egret
    stork ibis spoonbill flamingo crane bittern coot moorhen grebe loon plover lapwing sandpiper
    curlew snipe woodcock avocet oystercatcher ostrich emu rhea cassowary dodo shoebill secretarybird
    frog tadpole froglet toad treefrog bullfrog newt salamander axolotl
    turtle tortoise terrapin lizard gecko iguana chameleon skink anole komodo snake
    python boa viper cobra mamba rattlesnake adder anaconda crocodile alligator croc gator caiman
    gharial tuatara dragonet
    dinosaur dino tyrannosaurus rex raptor velociraptor triceratops stegosaurus brontosaurus
    brachiosaurus diplodocus ankylosaurus spinosaurus allosaurus iguanodon pterodactyl pterosaur
    plesiosaur ichthyosaur archaeopteryx mastodon sabertooth
    goldfish koi carp trout salmon tuna cod herring sardine mackerel catfish
    swordfish marlin sturgeon eel piranha guppy betta cichlid tetra clownfish angelfish pufferfish
    blowfish lionfish anglerfish seahorse shark ray stingray manta barracuda grouper halibut flounder
    octopus squid cuttlefish nautilus jellyfish starfish crab lobster shrimp prawn crayfish crawfish
    snail slug clam oyster mussel urchin
    ant bee bumblebee honeybee wasp hornet fly housefly mosquito gnat midge butterfly moth caterpillar
    beetle ladybug ladybird firefly dragonfly damselfly grasshopper locust cricket cicada mantis
    cockroach termite flea louse aphid weevil earwig centipede millipede spider tarantula scorpion
    tick mite worm earthworm bug
    """.split()
)
"""Animals by species, breed, sex and age."""

BEINGS = frozenset(
    """
    ghost robot monster snowman android cyborg alien zombie vampire werewolf mummy skeleton demon devil
    angel cherub fairy pixie sprite elf dwarf gnome goblin orc ogre troll giant gremlin imp leprechaun
    mermaid merman siren centaur minotaur satyr faun cyclops medusa genie djinn god goddess titan
    dragon unicorn pegasus griffin gryphon phoenix hydra kraken basilisk wyvern chimera sphinx yeti
    sasquatch bigfoot golem gargoyle mascot character superhero avatar
    """.split()
)
"""Beings of tales, films and games."""

LIVE_NOUNS = PEOPLE | ANIMALS | BEINGS
"""Head nouns of live subjects, in the singular."""

LIVE_PHRASES = frozenset(
    phrase.strip()
    for phrase in """
    toy poodle, toy terrier, toy fox terrier, toy spaniel, toy manchester terrier, glass frog,
    paper wasp, great pyrenees, russian blue, scottish fold, maine coon, turkish angora,
    turkish van, egyptian mau, cornish rex, devon rex, norwegian forest, jack russell,
    saint bernard, st bernard, st. bernard, bernese mountain, lhasa apso, shar pei, shih tzu,
    chow chow, american curl, fashion model, female model, male model, football player,
    soccer player, basketball player, baseball player, tennis player, hockey player, rugby player,
    volleyball player, chess player, baseball pitcher, police officer, army officer, office worker,
    construction worker, factory worker, flight attendant, mail carrier, tin man, iron man,
    bull terrier, wood duck, chocolate labrador, chocolate lab, chocolate retriever, flying fox,
    rubber boa, personal trainer, dog trainer, head coach, t rex, grim reaper, santa claus,
    father christmas, easter bunny, tooth fairy, bald eagle, sea otter, praying mantis, police dog,
    aye aye, sugar glider, sea bass, largemouth bass, kiwi bird, stick insect, leaf insect
    """.split(",")
)
"""Phrases of live subjects whose last noun, or whose first word, would say otherwise."""

OBJECT_PHRASES = frozenset(
    phrase.strip()
    for phrase in """
    teddy bear, gummy bear, hot dog, hotdog, corn dog, chili dog, rubber duck, rubber ducky,
    rocking horse, hobby horse, carousel horse, pommel horse, clothes horse, saw horse,
    trojan horse, computer mouse, wireless mouse, optical mouse, gaming mouse, usb mouse,
    baseball bat, cricket bat, softball bat, construction crane, tower crane, building crane,
    harbor crane, mobile crane, chess knight, chess king, chess queen, chess bishop, chess rook,
    garden gnome, lawn gnome, gingerbread man, gingerbread woman, chocolate bunny, chocolate rabbit,
    chocolate bear, chocolate santa, dust bunny, roast chicken, fried chicken, grilled chicken,
    roasted chicken, baked chicken, roast turkey, thanksgiving turkey, roast duck, peking duck,
    roast pig, grilled salmon, smoked salmon, fried fish, baked fish, jelly baby, cabbage patch kid,
    computer bug, volkswagen beetle, vw beetle, ford mustang, brain coral, fire coral, solar ray,
    x ray, xray, queen bed
    """.split(",")
)
"""Phrases of objects whose last noun alone would name a live subject."""

OBJECT_WORDS = frozenset(
    """
    toy plush plushie stuffed plastic wooden ceramic porcelain bronze brass marble glass rubber
    metal paper cardboard knitted crochet crocheted woolen felted origami inflatable gummy lego duplo
    playmobil clay papier mache tin sock balloon puppet windup squeaky bobblehead chrome pewter terracotta
    resin velveteen beanie model animatronic statue figurine taxidermy
    """.split()
)
"""Words before a noun that make an object of it: a toy dog, a ceramic cat, a sock monkey."""

_IRREGULAR = {
    "mice": "mouse",
    "dormice": "dormouse",
    "titmice": "titmouse",
    "lice": "louse",
    "geese": "goose",
    "children": "child",
    "grandchildren": "grandchild",
    "oxen": "ox",
    "brethren": "brother",
    "octopi": "octopus",
    "hippopotami": "hippopotamus",
    "platypi": "platypus",
    "folks": "folk",
}
_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))
_AFTER_THE_HEAD = re.compile(
    r"\b(?:with|without|of|in|on|from|at|by|under|near|wearing|holding|riding|sitting|standing|that|who|for|inside)\b"
)


def is_live(class_noun: str | None) -> bool:
    """Whether a class noun is one of a live subject; an unknown noun counts as an object.

    The head of the noun decides: `dog with a hat` is a dog, `dog toy` a toy. So does what it is
    made of: `toy dog` is a toy too, but `toy poodle` a breed. Plurals count like singulars.
    """
    phrase = re.sub(r"[\s_-]+", " ", (class_noun or "").lower()).strip(" .,!?'\"")
    phrase = re.sub(r"^(?:an?|the|my|our|his|her) ", "", phrase)
    head = (_AFTER_THE_HEAD.split(phrase)[0].split(",")[0]).strip()
    words = re.split(r" and | & | or |/", head)[-1].split()  # fish and chips are no fish
    return bool(words) and _is_live_phrase(words)


def _is_live_phrase(words: list[str]) -> bool:
    """Whether a noun with the words before it names a live subject."""
    endings = [" ".join([*words[start:-1], one]) for start in range(len(words)) for one in singulars(words[-1])]
    if LIVE_PHRASES & set(endings):
        return True
    if OBJECT_PHRASES & set(endings) or OBJECT_WORDS & set(words[:-1]):
        return False
    return bool(LIVE_NOUNS & singulars(words[-1]))


def singulars(word: str) -> set[str]:
    """Return a word itself, and the words that it may be the plural of."""
    cut = {word[: -len(plural)] + one for plural, one in _ENDINGS if word.endswith(plural)}
    return {word, *cut} | ({_IRREGULAR[word]} if word in _IRREGULAR else set())
