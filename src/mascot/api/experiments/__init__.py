"""The verbs over many runs, and the search over many words: one file a verb.

They plan runs or images, train or score them with the rooms below, and collect one result of all.

It may be imported by `cli` and by Python users. It imports every room below `api`.
"""
