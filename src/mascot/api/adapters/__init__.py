"""The verbs that work on adapter files: one file a verb.

They read files, call the functions of `mascot.adapters`, and write whole files. `bake` is what
`merge --into` calls. `input_files` and `rank_reduction` hold what verbs on ranks share, and
`word_extraction` finds the words that `extract` writes.

It may be imported by `cli` and by Python users. It imports every room below `api`.
"""
