"""Hundreds of command lines with a user error, typed in the folder of `bad_places`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One bad command line."""

    name: str
    words: tuple[str, ...]
    says: str
    """What the sentence must mention, in any case of letters."""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Files that are written for it first."""


def bad_commands() -> list[Command]:
    """All of them, in a fixed order; no two have the same words and files."""
    return [
        *_usage(),
        *_wrong_values(),
        *_unknown_settings(),
        *_overrides(),
        *_recipes(),
        *_photos(),
        *_captions(),
        *_places(),
        *_bases(),
        *_resumed(),
        *_adapters(),
        *_file_work(),
        *_inspections(),
        *_several(),
        *_empty_places(),
        *_pictures(),
        *_checkups(),
        *_sweeps(),
        *_knobs(),
        *_tokens(),
    ]


PLAIN = ("--set", "prior.count=0", "--set", "device=cpu")
"""No class noun is needed then, and no accelerator is asked for."""


def _command(says: str, *words: str, files: dict[str, bytes] | None = None) -> Command:
    name = " ".join(words + tuple(f"{name}:{data.decode(errors='replace')}" for name, data in (files or {}).items()))
    return Command(
        name="".join(letter if letter.isprintable() else "?" for letter in name)[:100],
        words=words,
        says=says,
        files=files or {},
    )


def _train(
    says: str, *words: str, files: dict[str, bytes] | None = None, photos: str = "photos", base: str = "base"
) -> Command:
    """A training that has only this fault."""
    return _command(says, "train", photos, "--base", base, "--out", "out", *PLAIN, *words, files=files)


def _usage() -> Iterator[Command]:
    yield _command("did you mean 'train'", "trian")
    yield _command("no such command", "paint")
    yield _command("no such option", "--verbose")
    yield _command("--seed", "train", "--sed", "3")
    yield _command("--class-noun", "train", "photos", "--class-nuon", "dog")
    yield _command("requires an argument", "train", "photos", "--out")
    yield _command("requires an argument", "train", "photos", "--set")
    yield _command("does not take a value", "train", "photos", "--resume=yes")
    yield _command("missing argument", "generate")
    yield _command("no prompt is given", "generate", "adapter.safetensors")
    yield _command("missing argument", "generate", "--adapter", "adapter.safetensors")
    for option in ("--steps", "--seed"):
        for value in ("x", "1.5", ""):
            yield _train(option, option, value)
    yield _train("training.steps", "--steps", "0")
    yield _train("training.steps", "--steps", "-3")
    yield _train("seed", "--seed", "-3")
    yield _train("token", "--token", "")
    yield _train("token", "--token", "  ")
    yield _train("class noun", "--class-noun", "")
    yield _train("class noun", "--class-noun", "\t")
    yield _train("unknown method", "--method", "lorra")
    yield _train("unknown method", "--method", "")
    yield _train("unknown method", "--method", 'a"b')
    yield _command("photos", "train", "--base", "base")
    yield _command("--class-noun", "train", "photos", "--base", "base", "--out", "out", "--set", "device=cpu")


WRONG_VALUES = {
    "base": ("3", "[]"),
    "photos": ("3", "[]", "none", "[1]"),
    "seed": ("-1", "1.5", "4294967296", "soon", "none", "[1]"),
    "token": ("''", "3", "' '"),
    "class_noun": ("7",),
    "device": ("gpu", "1", "none", "cuda:0"),
    "precision": ("fp8", "32", "none"),
    "dataset": ("5", "none", "text"),
    "dataset.resolution": ("0", "31", "5000", "big", "64.5"),
    "dataset.aspect_buckets": ("maybe", "2", "none"),
    "dataset.flip": ("perhaps", "3"),
    "dataset.background": ("3", "none"),
    "dataset.templates": ("3", "none"),
    "method": ("lora", "3", "[]", "none"),
    "method.rank": ("0", "-4", "513", "4.5", "big", "none"),
    "method.alpha": ("0", "-1", "high", "inf"),
    "method.layers": ("every", "1", "''"),
    "method.learning_rate": ("0", "1.5", "-0.1", "fast", "nan"),
    "method.text_learning_rate": ("-1", "1.5", "slow", "inf"),
    "training": ("5", "none"),
    "training.steps": ("0", "-5", "1000000", "1e3.5", "many", "none"),
    "training.batch_size": ("0", "513", "all"),
    "training.gradient_accumulation_steps": ("0", "513", "x"),
    "training.lr_schedule": ("polynomial", "3"),
    "training.warmup_steps": ("-1", "x"),
    "training.min_snr": ("0", "-5", "high", "nan"),
    "training.weight_decay": ("-1", "11", "x"),
    "training.max_grad_norm": ("0", "-1", "x", "nan", "inf"),
    "training.checkpoint_every": ("0", "-3", "x"),
    "prior": ("5",),
    "prior.count": ("-1", "10001", "x"),
    "prior.weight": ("-1", "101", "x", "nan"),
    "prior.steps": ("0", "1001"),
    "prior.guidance": ("-1", "51", "inf"),
    "prior.seed": ("-1", "x"),
    "previews": ("none", "3"),
    "previews.every": ("-1", "x"),
    "previews.prompts": ("[]", "text", "[1]"),
    "previews.seed": ("-1",),
    "knobs": ("7.5",),
    "knobs.guidance": ("-1", "101", "x", "nan"),
    "knobs.unet_scale": ("-1", "5", "nan"),
    "knobs.text_scale": ("-1", "5"),
    "knobs.negative": ("3", "none"),
    "knobs.steps": ("0", "1001", "x"),
    "knobs.solver": ("3",),
    "knobs.height": ("7", "8193", "tall"),
    "knobs.width": ("0", "-64"),
}
"""Types and ranges, for every setting there is."""

WRONG_TOGETHER = {
    "method.name": (("lorra", "unknown method"), ("3", "unknown method"), ("''", "unknown method")),
    "precision": (("fp16", "does not train on a CPU"),),
    "dataset.background": (("whitish", "not a color"), ("''", "not a color"), ("'#12'", "not a color")),
    "dataset.templates": (
        ("['a {subjekt}']", "did you mean 'subject'"),
        ("['a {']", "lone {"),
        ("['']", "empty"),
        ("[]", "at least 1"),
    ),
    "previews.prompts": (("['a {dog}']", "unknown placeholder"), ("['a }']", "lone }"), ("['']", "empty")),
    "knobs.solver": (("ddmi", "give one of ddim"), ("''", "unknown solver")),
    "knobs.height": (("100", "does not divide"),),
    "knobs.width": (("72", "does not divide"),),
    "class_noun": (("''", "class noun is empty"), ("' '", "class noun is empty")),
}
"""Values that do not fit the photos, the base, or each other; with what must be said."""


def _wrong_values() -> Iterator[Command]:
    for key, values in WRONG_VALUES.items():
        for value in values:
            yield _train(key, "--set", f"{key}={value}")
    for key, pairs in WRONG_TOGETHER.items():
        for value, says in pairs:
            yield _train(says, "--set", f"{key}={value}")
    for value, says in (("none", "does not exist"), ("''", "the base is empty")):
        yield _command(says, "train", "photos", "--set", f"base={value}", "--out", "out", *PLAIN)
    yield _train("leave one of them out", "--set", "base=other")
    yield _train("leave one of them out", "--seed", "0", "--set", "seed=3")
    yield _train("leave one of them out", "--recursive", "--set", "dataset.recursive=false")


def _unknown_settings() -> Iterator[Command]:
    near = {
        "sed": "seed",
        "tokn": "token",
        "dataset.resolutoin": "resolution",
        "dataset.flp": "flip",
        "method.rnk": "rank",
        "method.txt_learning_rate": "text_learning_rate",
        "training.stepz": "steps",
        "training.lr_shedule": "lr_schedule",
        "prior.wieght": "weight",
        "previews.evry": "every",
        "knobs.guidence": "guidance",
        "knobs.negativ": "negative",
    }
    for key, meant in near.items():
        yield _train(f"{key} is not a setting; did you mean '{meant}'", "--set", f"{key}=1")
    for key in ("zzz", "method.zzz", "training.zzz", "prior.zzz", "knobs.zzz"):
        yield _train(f"{key} is not a setting; known: ", "--set", f"{key}=1")


def _overrides() -> Iterator[Command]:
    for item in ("rank", "=5", "method..rank=3", ".rank=3", "", "method.=3", " =3"):
        yield _train("not of the form key=value", "--set", item)
    yield _train("training.steps", "--set", "training.steps.more=3")
    yield _train("seed", "--set", "seed.x=3")


def _recipes() -> Iterator[Command]:
    broken = (
        b"steps = ",
        b"[training\nsteps = 5",
        b"seed = 1\nseed = 2",
        b"= 3",
        b"seed = 01",
        b'token = "sks',
        b"\xff\xfe",
        b"\x00",
        b"PK\x03\x04",
        b"{}",
        b'{"seed": 3}',
        b"[[training]]\nsteps",
        b"seed: 3",
        b"[a]\n[a]",
    )
    for text in broken:
        yield _train("not valid TOML", "--recipe", "own/recipe.toml", files={"own/recipe.toml": text})
    wrong = {
        b"seed = -1": "seed",
        b'seed = "three"': "seed",
        b"seed = 1979-05-27": "seed",
        b"[training]\nsteps = 0": "training.steps",
        b"[training]\nstpes = 5": "did you mean 'steps'",
        b"[trainig]\nsteps = 5": "did you mean 'training'",
        b"[[training]]\nsteps = 5": "training",
        b"[[method]]\nrank = 5": "method",
        b"[method]\nrank = 0": "method.rank",
        b'[method]\nname = "x"': "unknown method",
        b"method = 3": "method",
        b'[knobs]\nsolver = "ddmi"': "did you mean 'ddim'",
        b"[previews]\nprompts = []": "previews.prompts",
        b"[dataset]\nresolution = 64.5": "dataset.resolution",
        b"seed = -1\n[method]\nrank = 0\n[training]\nstpes = 5": "mistakes: ",
        b"[lora]\nrank = 4": "lora is not a setting",
        b'[method]\nname = ["lora"]': "unknown method",
        b"[method]\nrank = inf": "method.rank",
        b"[training]\nclip = nan": "training.max_grad_norm",
    }
    for text, says in wrong.items():
        yield _train(says, "--recipe", "own/recipe.toml", files={"own/recipe.toml": text})
    yield _train("does not exist", "--recipe", "nothing.toml")
    yield _train("is a folder", "--recipe", "photos")
    yield _command(
        "photos",
        "train",
        "--recipe",
        "own/recipe.toml",
        *PLAIN,
        files={"own/recipe.toml": b'photos = []\nbase = "base"'},
    )
    yield _command(
        "photos",
        "train",
        "--recipe",
        "own/recipe.toml",
        *PLAIN,
        files={"own/recipe.toml": b'photos = "photos"\nbase = "base"'},
    )
    yield _command(
        "gone",
        "train",
        "--recipe",
        "own/recipe.toml",
        *PLAIN,
        files={"own/recipe.toml": b'photos = ["gone"]\nbase = "base"'},
    )
    yield _command(
        "base", "train", "photos", "--recipe", "own/recipe.toml", *PLAIN, files={"own/recipe.toml": b'base = "gone"'}
    )


def _photos() -> Iterator[Command]:
    yield _train("no photos", photos="empty")
    yield _train("no photos", photos="clutter")
    yield _train("no usable photo", photos="bad")
    yield _train("does not exist", photos="nowhere")
    yield _train("does not exist", photos="photos/nothing.jpg")
    yield _train("no usable photo", photos="")
    yield _train("is a caption; name the photo", photos="note.txt")
    yield _train("does not exist", photos="x" * 300)
    yield _train("now here does not exist", photos="now\nhere")
    yield _train("does not exist", photos="note.txt/x")
    yield _train("not exist", "nowhere")
    yield _train("magic.png is not an image", "photos", photos="bad/magic.png")


def _captions() -> Iterator[Command]:
    photo = b"GOOD"
    metadata = {
        b"not json": "line 1: this is not JSON",
        b"[1]": "write an object",
        b"{}": "no file_name",
        b'{"file_name": 3}': "no file_name",
        b'{"file_name": "2.png", "text": "a"}': "no file '2.png'",
        b'{"file_name": "1.jpg", "text": "a"}': "did you mean '1.png'",
        b'{"file_name": "1.png"}': "no caption",
        b'{"file_name": "1.png", "text": ""}': "empty",
        b'{"file_name": "1.png", "text": 3}': "not a text",
        b'{"file_name": "1.png", "text": "a {dog}"}': "unknown placeholder",
        b'{"file_name": "1.png", "text": "a {"}': "lone {",
        b"\xff": "not UTF-8",
        b"null": "write an object",
        b'{"file_name": "1.png", "text": "a"}\n{"file_name": "1.png", "text": "b"}': (
            "line 2: 1.png has a caption already"
        ),
        b'{"file_name": "1.png", "text": "a"}\n{"file_name"': "line 2: this is not JSON",
        b"[" * 100_000: "not JSON",
    }
    for text, says in metadata.items():
        yield _train(says, photos="own", files={"own/1.png": photo, "own/metadata.jsonl": text})
    captions = {
        b"": "empty",
        b" \n": "empty",
        b"a {dog}": "unknown placeholder",
        b"a }": "lone }",
        b"\xff\xfe": "not UTF-8",
    }
    for text, says in captions.items():
        yield _train(says, photos="own", files={"own/1.png": photo, "own/1.txt": text})


def _places() -> Iterator[Command]:
    def out(place: str, says: str) -> Command:
        return _command(says, "train", "photos", "--base", "base", "--out", place, *PLAIN)

    yield out("note.txt", "note.txt")
    yield out("note.txt/run", "cannot be written")
    yield out("photos", "not empty")
    yield out(".", "not empty")
    yield out("", "not empty")
    yield out("photos/1.png", "1.png")
    yield out("x" * 300, "too long")
    yield out("/dev/null", "cannot be written")
    yield out("/dev/null/run", "cannot be written")
    yield out("unfinished", "not empty")


def _bases() -> Iterator[Command]:
    yield _train("does not exist", base="nowhere")
    yield _train("does not exist", base="./nowhere")
    yield _train("does not exist", base="nowhere.safetensors")
    yield _train("does not exist", base="a/b/c")
    yield _train("model hub", base="nobody/nothing")
    yield _train("model_index.json", base="photos")
    yield _train("the base is empty", base="")
    yield _train("not a .safetensors file", base="note.txt")
    yield _train("not a .safetensors file", base="pickled.ckpt")
    for name in ("adapter", "text", "empty", "truncated"):
        yield _train("cannot be loaded", base=f"{name}.safetensors")
    for name in (
        "no_unet",
        "no_unet_weights",
        "unet_truncated",
        "unet_text",
        "unet_empty",
        "unet_pickled",
        "unet_config",
        "no_vae",
        "vae_truncated",
        "no_text_encoder",
        "text_encoder_truncated",
        "no_tokenizer",
        "tokenizer_truncated",
        "no_scheduler",
        "scheduler_broken",
        "other_unet",
        "few_unet_tensors",
        "few_vae_tensors",
        "few_text_tensors",
    ):
        yield _train("cannot be loaded", base=f"bases/{name}")
    for name in ("index_truncated", "index_text", "index_list", "index_folder", "index_empty"):
        yield _train("not valid JSON", base=f"bases/{name}")
    yield _train("mascot cannot personalize", base="bases/other_kind")
    yield _train("predicts 'sample'", base="bases/other_answer")


def _resumed() -> Iterator[Command]:
    def resume(place: str, says: str, *more: str) -> Command:
        return _command(says, "train", "--resume", "--out", place, *more)

    yield _command("give --out", "train", "--resume")
    for more in (("--seed", "3"), ("--set", "seed=3"), ("--class-noun", "dog"), ("--base", "bases/other_seed")):
        yield resume("unfinished", "put back what it was trained with", *more)
    yield resume("unfinished", "training.steps", "--steps", "0")
    yield resume("unfinished", "takes the recipe of unfinished", "--recipe", "r")
    for place in ("photos", "nowhere", "note.txt", "empty"):
        yield resume(place, "not a mascot run")
    yield resume("runs/broken_recipe", "not valid TOML")
    yield resume("runs/other_recipe", "did you mean 'training'")
    yield resume("runs/other_photos", "photos changed since")
    yield resume("runs/lost_photos", "does not exist")
    yield resume("runs/lost_base", "does not exist")
    yield resume("runs/broken_facts", "damaged")
    yield resume("runs/broken_checkpoint", "delete that folder")


def _adapters() -> Iterator[Command]:
    def draw(place: str, says: str, *words: str) -> Command:
        return _command(
            says, "generate", place, *(words or ("a dog",)), "--steps", "1", "--count", "1", "--out", "pictures"
        )

    yield draw("nowhere", "does not exist")
    yield draw("photos", "not a mascot run")
    yield draw("unfinished", "not trained to the end")
    yield draw("pickled.ckpt", "file of pickled weights")
    for name in (
        "note.txt",
        "archive.zip",
        "text.safetensors",
        "empty.safetensors",
        "truncated.safetensors",
        "photos/1.png",
    ):
        yield draw(name, "not a whole .safetensors file")
    yield draw("adapters/other_base.safetensors", "was trained on")
    yield draw("adapters/lost_base.safetensors", "does not exist")
    yield draw("adapters/no_manifest.safetensors", "give --base")
    yield draw("adapters/no_manifest.safetensors", "token", "a {subject}", "--base", "base")
    for name in ("manifest_text", "manifest_list"):
        yield draw(f"adapters/{name}.safetensors", "damaged manifest")
    for name in ("manifest_newer", "manifest_knobs"):
        yield draw(f"adapters/{name}.safetensors", "another version of mascot")
    yield draw("adapters/other_method.safetensors", "unknown method")
    yield draw("adapters/no_tensors.safetensors", "adapter is empty")
    for name in ("other_keys", "other_shapes"):
        yield draw(f"adapters/{name}.safetensors", "does not fit the base")
    for name in ("half", "other_rank", "flat", "scalar"):
        yield draw(f"adapters/{name}.safetensors", "is damaged")
    yield draw("adapters/metadata_text.safetensors", "metadata is damaged")
    yield draw("adapters/metadata_list.safetensors", "metadata is damaged")
    yield draw("adapters/metadata_rank.safetensors", "metadata is damaged")


def _file_work() -> Iterator[Command]:
    out = ("--out", "out.safetensors")
    yield _command("missing argument", "merge", *out)
    yield _command("missing option", "merge", "adapter.safetensors")
    yield _command("does not exist", "merge", "nowhere", *out)
    yield _command("not between 0 and", "merge", "adapter.safetensors:-1", *out)
    yield _command("give a scale that is not 0", "merge", "adapter.safetensors:0", *out)
    yield _command("two adapters are called", "merge", "adapter.safetensors", "adapter.safetensors", *out)
    yield _command("--rank 0 is below 1", "merge", "adapter.safetensors", "--rank", "0", *out)
    yield _command("--energy 1.5 is not a share", "merge", "adapter.safetensors", "--energy", "1.5", *out)
    yield _command("--energy nan is not a share", "resize", "adapter.safetensors", "--energy", "nan", *out)
    yield _command("leave it out", "merge", "adapter.safetensors", "--to", "peft", *out)
    yield _command("did you mean 'kohya'", "merge", "adapter.safetensors", "--to", "kohia", *out)
    yield _command("is not the name of a .safetensors file", "merge", "adapter.safetensors", "--out", "out")
    yield _command("exists already", "merge", "adapter.safetensors", "--out", "text.safetensors")
    yield _command("is one of the files that are read", "resize", "adapter.safetensors", "--rank", "1", *SAME)
    yield _command(
        "trained on different bases", "merge", "adapter.safetensors", "adapters/other_base.safetensors", *out
    )
    for name in ("half", "other_rank", "flat", "scalar"):
        yield _command("is damaged", "merge", f"adapters/{name}.safetensors", *out)
        yield _command("is damaged", "resize", f"adapters/{name}.safetensors", "--rank", "1", *out)
    yield _command("have no rank", "merge", "adapters/token.safetensors", "--rank", "2", *out)
    yield _command("--base 'nowhere' is not there", "merge", "adapter.safetensors", "--base", "nowhere", *out)
    yield _command(
        "--base 'nowhere' is not there", "resize", "adapter.safetensors", "--rank", "1", "--base", "nowhere", *out
    )
    yield _command("the adapter is empty", "merge", "", *out)
    yield _command("the adapter is empty", "resize", "", "--rank", "1", *out)
    yield _command("the adapter is empty", "generate", "", "a dog")
    yield _command("--adapter is empty", "generate", "a dog", "--adapter", "")
    yield _command("exists already", "convert", "adapter.safetensors", "adapters", "--to", "peft")
    yield _command("no rank is given", "resize", "adapter.safetensors", *out)
    yield _command("give one of them", "resize", "adapter.safetensors", "--energy", "0.9", "--ratio", "3", *out)
    yield _command("leave the scale out", "resize", "adapter.safetensors:0.5", "--rank", "1", *out)
    yield _command("--ratio 0.5", "resize", "adapter.safetensors", "--ratio", "0.5", *out)
    yield _command("has no effect beside --into", "merge", "adapter.safetensors", "--into", "base", "--rank", "4", *out)
    yield _command("is baked into a folder", "merge", "adapter.safetensors", "--into", "base", *out)
    yield _command("--into 'nowhere' is not there", "merge", "adapter.safetensors", "--into", "nowhere", "--out", "out")
    yield _command("no weights of a base", "merge", "adapter.safetensors", "--into", "empty", "--out", "out")
    yield _command("no rank is given", "extract", "base", "--base", "base", *out)
    yield _command("is the base itself", "extract", "base", "--base", "base", "--rank", "2", *out)
    yield _command("it is a LoRA", "extract", "adapter.safetensors", "--base", "base", "--rank", "2", *out)
    yield _command("--conv-rank 0", "extract", "base", "--base", "base", "--rank", "2", "--conv-rank", "0", *out)


SAME = ("--out", "adapter.safetensors")


def _inspections() -> Iterator[Command]:
    def look(says: str, *words: str, files: dict[str, bytes] | None = None) -> Command:
        return _command(says, "inspect", *words, files=files)

    yield look("missing argument")
    yield look("no such option", "adapter.safetensors", "--jsn")
    yield look("does not exist", "nowhere")
    yield look("does not exist", "adapter.safetensors", "nowhere.safetensors")
    yield look("holds no run, no base and no adapter", "empty")
    yield look("not a whole .safetensors file", "note.txt")
    yield look("not a whole .safetensors file", "own/short.safetensors", files={"own/short.safetensors": b"x" * 9})
    yield look("no whole file of pickled tensors", "own/word.pt", files={"own/word.pt": b"PK\x03\x04"})
    yield look("not valid JSON", "bases/index_truncated")
    yield look("AudioPipeline", "bases/other_kind")


def _empty_places() -> Iterator[Command]:
    """Nothing in the place of a run or file; it is never the present folder."""
    options = (
        ("diagnose",),
        ("inspect",),
        ("convert", "out.safetensors", "--to", "kohya"),
        ("compare", "run"),
        ("sweep", "--over", "guidance=3,5"),
        ("publish", "--repo", "me/owl"),
    )
    for command, *words in options:
        yield _command("a place is empty", command, "", *words)


def _several() -> Iterator[Command]:
    def draw(says: str, *words: str) -> Command:
        return _command(says, "generate", *words, "--steps", "1", "--count", "1", "--out", "pictures")

    yield draw("did you mean adapter.safetensors", "adaptr.safetensors", "a dog")
    yield draw("did you mean adapter.safetensors", "adapter.safetensors", "adaptr.safetensors:0.5", "a dog")
    yield draw("comes after a prompt", "adapter.safetensors", "a dog", "adapter.safetensors")
    yield draw("the model hub cannot be reached", "someone/adapter", "a dog")
    yield draw("not between 0 and 4", "adapter.safetensors:5", "a dog")
    yield draw(
        "has a scale behind it, and --unet-scale gives another", "adapter.safetensors:0.5", "a dog", "--unet-scale", "1"
    )
    yield draw("scale of the text encoders", "adapters/no_text.safetensors:0.5:1", "a dog")
    yield draw("scale of the denoiser", "adapters/token.safetensors:0.5:1", "a dog")


def _pictures() -> Iterator[Command]:
    def draw(says: str, *words: str) -> Command:
        return _command(
            says, "generate", "adapter.safetensors", *(words if words[0][0] != "-" else ("a {subject}", *words))
        )

    wrong = {
        "--count": ("0", "-1", "10001", "x", "1.5"),
        "--seed": ("-1", "x"),
        "--guidance": ("-1", "101", "x", "nan"),
        "--unet-scale": ("-1", "5", "x"),
        "--text-scale": ("-1", "5"),
        "--steps": ("0", "1001", "x", "2.5"),
        "--size": ("64x", "x64", "axb", "-64x64", "0x0", "64x64x64", "9000x9000", "", "64 64"),
    }
    for option, values in wrong.items():
        for value in values:
            yield draw(option, option, value)
    yield draw("does not divide", "--size", "100x64")
    for value in ("0", "-1", "1.01", "nan", "inf", "x", ""):
        yield draw("--strength", "--strength", value, "--image", "photos/1.png")
    yield draw("--image", "--strength", "0.5")
    yield draw("--image", "--mask", "photos/1.png")
    for option, others in {"--image": (), "--mask": ("--image", "photos/1.png")}.items():
        for value in ("nowhere.png", "photos", "note.txt", "adapter.safetensors", "", "a" * 300 + ".png"):
            yield draw(option, option, value, *others)
    yield draw("negative has no effect at", "--negative", "fog", "--guidance", "1")
    for name, option in {"no_text": "--text-scale", "token": "--unet-scale"}.items():
        for value in ("0", "0.5", "1"):
            yield _command(
                f"{option} has no effect", "generate", f"adapters/{name}.safetensors", "a {subject}", option, value
            )
    yield draw("is not of the form WIDTHxHEIGHT", "--size", "9" * 5000)
    yield draw("unknown solver", "--solver", "ddmi")
    yield draw("unknown solver 'dpm'", "--solver", "dpm")
    yield draw("does not exist", "--base", "nowhere")
    yield draw("was trained on", "--base", "bases/other_seed")
    yield draw("no such option", "--negativ", "x")
    for prompt, says in (
        ("a {dog}", "unknown placeholder"),
        ("a {", "lone {"),
        ("a {}", "unknown placeholder"),
        ("a } b", "lone }"),
    ):
        yield draw(says, prompt)
    yield draw("empty prompt", " ")
    yield draw("cannot be written", "--steps", "1", "--count", "1", "--out", "note.txt")


def _checkups() -> Iterator[Command]:
    def doctor(says: str, *words: str) -> Command:
        return _command(says, "doctor", *words)

    yield doctor("belong to the check of this machine", "photos", "--json")
    yield doctor("no photos", "empty", "--base", "base")
    yield doctor("does not exist", "nowhere", "--base", "base")
    yield doctor("does not exist", "photos", "--base", "nowhere")
    yield doctor("cannot be loaded", "photos", "--base", "bases/no_vae", *PLAIN)
    yield doctor("did you mean 'ddim'", "photos", "--base", "base", *PLAIN, "--set", "knobs.solver=ddmi")
    yield doctor("method.rank", "photos", "--base", "base", "--set", "method.rank=0")
    yield doctor("no such option", "photos", "--mesure")


def _sweeps() -> Iterator[Command]:
    recipe = b'photos = ["photos"]\nbase = "base"\nclass_noun = "dog"\ndevice = "cpu"'

    def sweep(says: str, *words: str, text: bytes = recipe, over: str = "method.rank=2,4", out: str = "out") -> Command:
        return _command(
            says,
            "sweep",
            "own/recipe.toml",
            "--over",
            over,
            "--out",
            out,
            "--set",
            "prior.count=0",
            *words,
            files={"own/recipe.toml": text},
        )

    yield _command("--over", "sweep", "none.toml")
    yield _command("none.toml does not exist", "sweep", "none.toml", "--over", "method.rank=2")
    yield sweep("method.rnk is not a setting; did you mean 'rank'", over="method.rnk=2")
    yield sweep("method.rank = 0", over="method.rank=2,0")
    yield sweep("has an empty value", over="method.rank=")
    yield sweep("has an empty value", over="method.rank=2,,4")
    for over in ("method.rank", "=2", "", "method..rank=2"):
        yield sweep("not of the form key=value,value", over=over)
    yield sweep("has the value 2 twice", over="method.rank=2,2")
    yield sweep("give --trials N too", over="method.rank=1..8")
    yield sweep("are the same setting", "--over", "training.steps=1", over="steps=2")
    yield sweep("is given twice", "--over", "method.rank=8")
    yield sweep("does not exist", over="base=base,nowhere")
    yield sweep("unknown method", over="method=lorra")
    yield sweep("did you mean 'identity'", "--by", "idenity")
    yield sweep("did you mean 'ray'", "--engine", "rey")
    yield sweep("--address is for", "--address", "a.cluster")
    for option in ("--trials", "--images"):
        for value in ("0", "x", ""):
            yield sweep(option, option, value)
    yield sweep("empty prompt", "--prompt", "")
    yield sweep("did you mean 'subject'", "--prompt", "a {subjekt}")
    yield sweep("not of the form key=value", "--set", "rank")
    yield sweep("did you mean 'steps'", "--set", "training.stepz=3")
    yield sweep("nowhere cannot be read", text=b'photos = ["nowhere"]\nbase = "base"')
    yield sweep("no photos", text=b'photos = ["empty"]\nbase = "base"')
    yield sweep("photos", text=b'base = "base"')
    yield sweep("not valid TOML", text=b"photos = ")
    for place in ("/dev/null", "note.txt", "note.txt/sweep"):
        yield sweep("cannot be written", out=place)


def _knobs() -> Iterator[Command]:
    def turn(says: str, *words: str, what: str = "adapter.safetensors", over: str = "guidance=3") -> Command:
        return _command(says, "sweep", what, "--over", over, *words)

    yield turn("did you mean 'guidance'", over="guidnce=3")
    yield turn("guidance=x", over="guidance=3,x")
    yield turn("guidance=-1", over="guidance=-1")
    yield turn("has an empty value", over="guidance=")
    yield turn("needs listed values", over="guidance=1..3")
    yield turn("a seed is a whole number", over="seed=-1")
    yield turn("1 to 3 axes", "--over", "steps=1", "--over", "unet_scale=1", "--over", "text_scale=1")
    yield turn("knobs are not trained or scored", "--trials", "3")
    for option, value in {
        "--by": "identity",
        "--images": "9",
        "--engine": "bogus",
        "--address": "a.cluster",
        "--set": "method.rank=4",
        "--identity": "seer",
        "--clip": "reader",
    }.items():
        yield turn(f"so {option} has no effect", option, value)
    yield turn("--prompt has no effect where", "--prompt", "a dog", over="prompt=a cat,a dog")
    yield turn("text_scale has no effect", what="adapters/no_text.safetensors", over="text_scale=0.5,1")
    yield turn("unet_scale has no effect", what="adapters/token.safetensors", over="unet_scale=0.5,1")
    yield turn("negative has no effect at", "--over", "negative=fog,rain", over="guidance=1")
    yield turn("unknown placeholder", "--prompt", "a {dog}")
    yield turn("empty prompt", "--prompt", "")
    for place in ("photos", "note.txt/grid.png", "/dev/null/grid.png"):
        yield turn("cannot be written", "--out", place)
    yield turn("does not exist", what="nowhere")
    yield turn("not a mascot run", what="photos")
    yield turn("not trained to the end", what="unfinished")
    for name in ("note.txt", "truncated.safetensors", "runs/broken_adapter"):
        yield turn("not a whole .safetensors file", what=name)


def _tokens() -> Iterator[Command]:
    yield _command("does not exist", "token", "--base", "nowhere")
    yield _command("the base is empty", "token", "--base", "")
    yield _command("model hub", "token", "--base", "nobody/nothing")
    yield _command("model_index.json", "token", "--base", "photos")
    yield _command("cannot be loaded", "token", "--base", "bases/no_vae", "--identity", "seer", "--clip", "reader")
    for option, values in {"--count": ("0", "101", "x"), "--candidates": ("0", "x"), "--seed": ("-1", "x")}.items():
        for value in values:
            yield _command(option, "token", option, value)
    yield _command("no such option", "token", "--bse", "base")
