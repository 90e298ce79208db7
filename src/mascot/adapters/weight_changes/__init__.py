"""What is computed on the weight changes of adapters: sums, extraction, and smaller ranks.

`low_rank` gives the change of a layer of any kind, and `decomposition` its singular values.
`merging` adds changes, and `resizing` gives them other ranks. `extraction` finds the LoRA that is
closest to the change between two sets of weights.

It knows tensors in the form of `adapters.adapter_file`, and neither the formats of other tools nor
base models.

It may be imported by `methods` and every room above it.
"""
