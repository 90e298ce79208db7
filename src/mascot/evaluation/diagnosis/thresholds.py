"""TODO evaluation.diagnosis.thresholds."""

from __future__ import annotations

LEARNED = 0.35
"""Undertrained: likeness gained over the base, of which the photos have 1."""


COPIED = -0.25
"""Memorised: how near to one photo pictures lie, 0 as near as the next photo, 1 the photo itself. Copies as a network draws them lie around
0; pictures of the subject in other places lay around -1."""


HEARD = 0.75
"""Memorised: prompts must be followed less than this as well, for likeness alone is no copy."""


DRIFTED = 0.15
"""Class drifted: how far the class has moved from the base's to the photos."""


VARIED = 0.4
"""Diversity collapsed: variety of one prompt's pictures, of which the base has 1. The base's are of other individuals too, so that no
subject comes near 1, and the less so the lower the guidance: one in six turned poses had 0.43 at guidance 1.8, 0.49 at 3, 0.66 at 5; four
in a single pose had 0.10 to 0.34 at 3, and their pictures were the same to the eye."""


FOLLOWED = 0.6
"""Prompt ignored: how far prompts move the pictures, of which the base has 1."""


BLED = 0.3
"""Context and looks entangled: share of the scene's change of colour that the subject takes over, less the base's. Subjects that kept their
colours had -0.03 to 0.23, the slimmest most, as the scene shows in the middle of its pictures; one that was tinted had 0.36."""


LEAKED = 0.5
"""Token leaked: how far from the base's class to the photos pictures of the class alone lie."""


NAMED = 0.6
"""Token leaked: the same for the token alone, which brings some of the subject's colours with it in healthy runs too."""


ALIKE = 0.98
"""Photos too alike: likeness of the photos among themselves, 0 the base's to them, 1 the same picture. An encoder that looks at the subject
alone puts one drawing in five places at 0.96."""


TWINS = 0.5
"""Photos too alike: share of the photos that show what another one shows."""
