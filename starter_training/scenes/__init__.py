"""Composed scenes: drawings in front of procedural backgrounds, with captions.

`canvas`, `landscapes`, `built_places` and `backgrounds` paint what is behind a figure; `textures`
changes a drawing's colors or material and filters whole scenes. `world` holds the drawings and the
named individuals, `scene_grammar` composes scenes and captions from it. `augmentations` varies the
views of one subject for the identity encoder. `subject_photos`, `subjects` and `mascot_photos` make
photos of single subjects.

All randomness comes from generators that the caller passes. Training, export and benchmarks import
this folder; it imports only `drawings` and `atomic_folder`.
"""
