"""Train the embedded base and its encoders, from openly licensed drawings to package data.

The rooms follow the data:
- drawings: collects the drawings from their npm packages; `objects.toml` lists what is used.
- scenes: composes captioned scenes of drawings in front of procedural backgrounds.
- models: trains the tokenizer, the autoencoder, the base, and the two encoders.
- export: writes the trained weights into `src/mascot/models/starter`, the package's data.

`data_parallel` trains one model in several processes; `cli` has one command for each step. The
checkout has this folder, an installation does not: `mascot` never imports it, benchmarks and tests
do. README.md has the order of the steps, the times and the measurements.
"""
