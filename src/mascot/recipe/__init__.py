"""The recipe: every setting that decides the outcome of a run, as one frozen value.

`recipe` holds the `Recipe` and reads its presets (`presets/BASE-METHOD.toml`). `settings` holds
the sections that belong to no other room, and `overrides` reads TOML and `--set`. `mistakes` words
the errors, and knows the keys of older recipes. `unused_settings` finds settings that change
nothing beside the others, and `subject_tables` reads several subjects.

Not here: the settings of a part, which stand beside the part (`training.settings`, `data.dataset`,
`generation.knobs`, each method's file), and the resolved settings of a run
(`runs.effective_settings`). Only `runs`, `evaluation`, `experiments`, `api` and `cli` may import
this room; the rooms below take the values they need.
"""
