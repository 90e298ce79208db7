"""The training loop and what it needs, for any base model and any method.

`loop` is the loop, with `settings`, `optimizers`, `lr_schedule` and `ema`. `checkpoint` saves and
loads its state. `accelerator` sets up device and precision, and `interrupts` delays Ctrl-C.
`memory_estimate` and `cost` predict memory and time before the first step.

No family, method or recipe is named here. The loss is in `diffusion.loss`, what is trained is in
`methods`, and batches, logs and previews of a run are in `runs`.

It may be imported by `recipe`, `runs` and every room above them, but not by `generation`.
"""
