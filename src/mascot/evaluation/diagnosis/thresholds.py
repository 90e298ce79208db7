"""Thresholds of the failure modes, and the runs on which they were chosen.

A failure mode is reported where the whole 95 % interval of its statistic lies beyond the threshold.
"""

from __future__ import annotations

MINIMUM_LIKENESS_GAIN = 0.35
"""Underfitting: likeness gained over the base model, where the photos have 1."""

MAXIMUM_PHOTO_NEARNESS = -0.25
"""Memorization: nearness of generated images to one photo.

At 0 an image is as near to a photo as the next photo is; at 1 it is the photo itself. Copies that
a network generates measured around 0. Images of the subject in other contexts measured around -1.
"""

MEMORIZATION_PROMPT_ADHERENCE = 0.75
"""Memorization: prompt adherence must also be below this value.

An image that follows its prompt is no copy, however near it lies to a photo.
"""

MAXIMUM_CLASS_DRIFT = 0.15
"""Language drift: likeness of class images, less the base model's, where the photos have 1."""

MINIMUM_DIVERSITY_RATIO = 0.4
"""Reduced diversity: mean distance between a prompt's images, where the base model has 1.

The base model's images also differ in the individual, so that no subject comes near 1. The value
falls with the guidance scale. A subject with photos in six turned poses measured 0.43 at guidance
scale 1.8, 0.49 at 3 and 0.66 at 5. Four subjects with photos in a single pose measured 0.10 to 0.34
at 3, and their images looked the same.
"""

MINIMUM_PROMPT_ADHERENCE = 0.6
"""Prompt ignored: how much better images match their own prompt, where the base model has 1."""

MAXIMUM_COLOR_LEAKAGE = 0.3
"""Context-appearance entanglement: color leakage of the background, less the base model's.

Subjects that kept their colors measured -0.03 to 0.23. The slimmest subject measured most, as the
background shows in the center of its images. A subject that was tinted measured 0.36.
"""

MAXIMUM_CLASS_LIKENESS = 0.5
"""Token leakage: likeness of images of the class noun alone; base model 0, photos 1."""

MAXIMUM_TOKEN_LIKENESS = 0.6
"""Token leakage: likeness of images of the token alone; base model 0, photos 1.

It is higher than `MAXIMUM_CLASS_LIKENESS`: in healthy runs too, the token alone brings some of the
subject's colors.
"""

MAXIMUM_PHOTO_LIKENESS = 0.98
"""Photos too similar: likeness among the photos; 0 as the base model to them, 1 identical images.

An encoder that looks at the subject alone puts one drawing in five contexts at 0.96.
"""

MAXIMUM_DUPLICATE_SHARE = 0.5
"""Photos too similar: share of the photos that duplicate another photo."""

MAXIMUM_SUBJECT_LEAKAGE = 0.3
"""Subject leakage: likeness of a subject's images to another's photos, which have 1.

0 is what the subject's class and its own photos have. Subjects that looked right
measured -0.23 to 0.15; no trained run has leaked yet.
"""
