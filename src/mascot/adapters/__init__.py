"""The adapter file, and what can be computed on adapters without a base model.

`adapter_file` reads and writes the safetensors file and its manifest; `adapter_checks` refuses
damaged ones, `formats` turns those of other tools into our form and back (`peft_folder` those of
peft, which are folders), and `foreign_formats` recognizes what is no adapter that we read.
`lora_keys` holds the tensor names and the metadata of low-rank adapters, `token_rows` those of
trained token embeddings, and `sides` tells what an adapter changes. `peft_layers` wraps the few
functions of peft that mascot needs, and `stacked_layers` puts several adapters into one layer.
`weight_changes` computes sums, extractions and smaller ranks.

`headers` writes what other tools read in a file's header, such as ModelSpec's keys and hashes.

What a method trains is in `methods`. Loading an adapter for generation is in `generation.loading`.

It may be imported by `methods` and every room above it. It imports `storage` and `errors` only, and
does not know `models` or `data`.
"""
