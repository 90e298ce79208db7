"""Captions: where they come from, how they vary from step to step, and what is wrong with them.

`caption_files` reads the texts and tables beside photos, `file_name_captions` makes captions of
their names, and `caption_models` lets a model write them. `caption_variants` shuffles and drops
tags and draws wildcards. `caption_audit` finds what training would suffer from.

The placeholders are filled by `data.prompt_templates`; `data.captions` brings all sources together.
Only the room `data` and the rooms above it may import this one.
"""
