"""Prompts of generation: sets of them, weighted words, and what text encoders leave out.

`prompt_weights` is the grammar of prompts as users type them, `chunk_plan` splits their tokens, and
`prompt_reading` encodes them. `prompt_sets` holds the prompts that scores are measured with, and
`live_nouns` decides which of them suit a subject. Templates with `{subject}` are filled in
`data.prompt_templates`.

It may be imported by the rest of `generation` and every room above it.
"""
