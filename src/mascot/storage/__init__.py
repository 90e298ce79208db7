"""Files on disk: where a run keeps what, and how a file is written so that it is never half there.

`run_folder` names every file of a run, `run_lock` lets one process at a time work on it, and
`step_log` reads its step log. `atomic_write` replaces a file or folder in one move, `json_record`
gives a value a JSON file of its own, `image_files` writes PNGs with their settings,
`user_cache` says where caches lie, and `model_hub` fetches files of models.

`untrusted_files` opens every file that is read, whoever wrote it, and reads text, TOML, JSON and
JSON lines; `strict_parsing` bounds what such a text may hold. `tensor_files` reads safetensors.

Not here: the adapter file (`adapters.adapter_file`), the recipe file (`recipe`), HTML pages
(`reports`) and what a cache is keyed by (`data.encoding_cache`, `generation.sample_cache`).
This room knows no diffusion, and imports torch only to read tensors; every room above `protocols`
may import it.
"""
