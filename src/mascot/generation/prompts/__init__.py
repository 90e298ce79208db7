"""Prompts of generation: sets of them, weighted words, and what text encoders leave out.

`prompt_sets` holds the prompts that scores are measured with, and `live_nouns` decides which of
them suit a subject. Templates with `{subject}` are filled in `data.prompt_templates`.

It may be imported by the rest of `generation` and every room above it.
"""
