"""Selection: choose what a run keeps, by measuring generated images.

`validation` runs while training: it measures checkpoints, stops early, and then searches knobs.
`validation_set` generates and measures its images; `criterion` turns measurements into one score.
`checkpoint_selection` and `knob_search` decide by that score. `token_choice` chooses an identifier
token for subjects without one; `token_scoring`, `rare_words` and `word_lists` serve it.

The metrics are in `evaluation.metrics`, the scores of a finished run in `evaluation`, the searches
over whole runs in `experiments.sweep`. `api` and `cli` import this room, `evaluation.diagnosis`
does not.
"""
