"""Training methods, one file each: what is trained in a base model, and how it is exported.

`registry` is the table of methods. `lora`, `dreambooth` and `textual_inversion` each hold the
recipe's settings, the attached method (`protocols.AttachedMethod`), the applied adapter
(`protocols.AppliedAdapter`), and `restore`. `pivotal` runs two of them in turn; no other method
imports another.

The training loop is in `training`, the adapter file in `adapters`, base models in `models`. A new
method is one file here and one line in `registry.METHODS`.

It may be imported by `generation`, `recipe` and every room above them.
"""
