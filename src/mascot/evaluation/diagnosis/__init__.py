"""Diagnosis: find out which failure modes a trained adapter has, and what to change.

`probe_images` generates images and measures them. `measurements` normalizes the numbers: 0 is the
base model, 1 is the real photos. `checks` compares one statistic per failure mode with its
threshold from `thresholds`. `findings` turns the checks into `diagnosis.json`, `remedies` proposes
settings, `example_images` picks the images that show a finding, `diagnosis_page` renders all of it.

The metrics themselves are in `evaluation.metrics`, the checks of photos before training in
`data.photo_audit`, the function `diagnose` in `api.diagnose`. `api` and `cli` import this room;
`evaluation.selection` does not.
"""
