"""Openly licensed emoji drawings: which ones are used, and how they become arrays.

`objects.toml` lists the art styles, npm packages, nouns, accessories and held-out subjects;
`objects` reads it, and the catalogue of all other animals and things. `icons` renders one drawing,
`collect` renders all of them into `work/drawings.npz`.

Scenes, training and export import this folder; it imports none of them. Captions and backgrounds
are in `scenes`.
"""
