"""One adapter or several in an image: what a user names, what may be together, how it is applied.

`adapter_sources` tells adapters from prompts and reads their names and scales, `stacked_adapter` is
one of them, `stack_checks` refuses those that cannot be together, `subject_names` fills prompts
with the subjects of all, and `applied_stack` applies them to a base.

The weight changes of all adapters add up, each times its own scales. Their order decides only
rounding, with one exception that diffusers has too: a DoRA multiplies the output of a layer by its
magnitudes, and with it what LoRAs before it have added.

The rest of `generation`, and the rooms that may import that, may import this one.
"""
