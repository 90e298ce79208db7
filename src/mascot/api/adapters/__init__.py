"""The verbs that work on adapter files: one file a verb.

They read files, call the functions of `mascot.adapters`, and write whole files.

It may be imported by `cli` and by Python users. It imports every room below `api`.
"""
