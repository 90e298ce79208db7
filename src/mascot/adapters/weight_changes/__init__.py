"""What is computed on the weight changes of adapters: sums, extraction, and smaller ranks.

It knows tensors in the form of `adapters.adapter_file`, and neither the formats of other tools nor
base models.

It may be imported by `methods` and every room above it.
"""
