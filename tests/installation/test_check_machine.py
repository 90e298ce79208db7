"""Laws of `mascot doctor` without photos: what it says of a machine, and what it finds wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from torch.nn import functional

import mascot as package
from mascot.api.installation import issue_report, machine_facts, package_versions, torch_build
from mascot.api.installation.check_machine import check_machine
from mascot.api.installation.issue_report import without_private
from mascot.api.installation.machine_report import MachineFinding, MachineSection
from mascot.api.installation.package_versions import EXTRAS, SHOWN, check_imports, check_packages
from mascot.api.installation.torch_build import Gpu, TorchBuild, has_kernels, measure_precision
from tiny.commands import Command

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEVELOPERS = {"dev", "docs", "notebook", "recipe", "site"}
"""Extras that are no use to a user."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own, and lines that are not folded."""
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")


def facts_in(printed: str) -> Mapping[str, str]:
    """The printed rows: name and value, which two spaces part."""
    rows = [line.strip().split("  ", 1) for line in printed.splitlines() if "  " in line.strip()]
    return {row[0]: row[1].strip() for row in rows}


def test_without_photos_the_doctor_checks_the_machine(mascot: Command, tmp_path: Path) -> None:
    code, printed, errors = mascot("doctor", "--no-measure")
    assert (code, errors) == (0, "")
    facts = facts_in(printed)
    assert facts["mascot"] == package.__version__
    assert facts["torch"].startswith(torch.__version__)
    assert {"Python", "system", "processor", "device", "precision", "memory", "disk here", *SHOWN, *EXTRAS} <= set(
        facts
    )
    assert facts["precision"].startswith("fp32")
    assert facts["cache"] == f"empty, can be written ({tmp_path / 'cache'})"
    assert printed.endswith("Nothing is wrong; no canary was trained.\n")
    assert not (tmp_path / "cache").exists()


def test_the_same_is_printed_as_json(mascot: Command) -> None:
    code, printed, errors = mascot("doctor", "--no-measure", "--json")
    assert code == 0
    assert "Traceback" not in errors
    found = json.loads(printed)
    assert found["works"] is True
    assert found["sections"]["machine"]["mascot"] == {"value": package.__version__}
    assert set(found["sections"]) == {"machine", "packages", "device", "storage", "extras"}
    assert found["sections"]["storage"]["cache"]["place"]


@pytest.mark.parametrize(("words", "named"), [(["--json"], "--json"), (["--report", "x.md"], "--report")])
def test_options_of_the_machine_are_refused_beside_photos(
    mascot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, errors = mascot("doctor", tmp_path, "--no-measure", *words)
    assert (code, printed) == (2, "")
    assert errors == (
        f"mascot: {named} belong to the check of this machine, and photos or settings are checked here; "
        "run mascot doctor with nothing else.\n"
    )
    assert list(tmp_path.iterdir()) == []


SECRETS = {
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "WANDB_API_KEY": "0123456789abcdef",
    "MY_PASSWORD": "correct horse",
}


def test_a_report_for_an_issue_says_nothing_about_the_user(
    mascot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where an error's text holds their folders, names and tokens."""
    home = tmp_path / "home" / "annegret"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("LOGNAME", "annegret")
    monkeypatch.setattr("platform.node", lambda: "workstation7.example.org")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)

    def fault(module: str) -> str:
        told = f"{home}/lib/x.so and C:\\Users\\annegret\\x.dll and /srv/data/photos of Annegret on workstation7"
        return f"OSError: {told}, {', '.join(SECRETS.values())}, hf_qrstuvwxyzabcdef" if module == "diffusers" else ""

    monkeypatch.setattr(package_versions, "import_fault", fault)
    path = tmp_path / "report.md"
    code, _, errors = mascot("doctor", "--no-measure", "--report", path)
    assert code == 2
    assert "diffusers cannot be imported" in errors
    text = path.read_text(encoding="utf-8")
    for private in (*SECRETS.values(), "annegret", "Annegret", "workstation7", "example.org", "/srv", "hf_q", "/lib"):
        assert private not in text, private
    assert str(tmp_path) not in text
    for kept in (f"torch: {torch.__version__}", "## extras", "- error: diffusers cannot be imported (OSError: PLACE"):
        assert kept in text


def test_a_name_that_is_a_word_of_the_report_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issue_report, "names", lambda: ["torch", "jo", "lin"])
    assert without_private("torch 2 on lin with jo", public="torch device") == "torch 2 on NAME with jo"


def test_a_report_never_replaces_a_file(mascot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is checked."""
    path = tmp_path / "report.md"
    path.write_text("mine", encoding="utf-8")
    monkeypatch.setattr("mascot.api.installation.check_machine.check_machine", lambda **_: pytest.fail("checked"))
    code, printed, errors = mascot("doctor", "--report", path)
    assert (code, printed) == (2, "")
    assert errors == f"mascot: {path} exists already; give another name, or remove it first.\n"
    assert path.read_text(encoding="utf-8") == "mine"


# Packages


def doctor_with(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor in a process of its own, with a folder of packages."""
    path = os.pathsep.join([str(ROOT / "src"), str(folder)])
    call = [sys.executable, "-c", "from mascot.cli.app import main; main()", "doctor", *words]
    return subprocess.run(
        call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.slow
def test_a_torchvision_that_does_not_fit_is_found(tmp_path: Path) -> None:
    """Without it, as after `pip uninstall torchvision`, nothing is wrong."""
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    (tmp_path / "torchvision").mkdir()
    fault = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (tmp_path / "torchvision" / "__init__.py").write_text(fault, encoding="utf-8")
    done = doctor_with(tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"mascot: torchvision 0.28.0 does not fit torch {torch.__version__}, and diffusers fails with it "
        "(RuntimeError: operator torchvision::nms does not exist). Run pip uninstall torchvision, which mascot does "
        "not need, or install the torchvision of this torch.\n"
    )
    assert "canary" not in done.stdout
    for path in tmp_path.glob("torchvision*"):
        path.rename(tmp_path / f"gone-{path.name}")
    assert doctor_with(tmp_path, "--no-measure").returncode == 0


def test_a_package_that_is_too_old_or_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [Requirement("numpy>=99"), Requirement("nosuchpackage>=1,<2"), Requirement("torch>=2.13")]
    monkeypatch.setattr(package_versions, "needed_packages", lambda: needed)
    errors = [finding for finding in check_packages().findings if finding.severity == "error"]
    assert [finding.remedy for finding in errors] == [
        "Run pip install 'numpy>=99'.",
        "Run pip install 'nosuchpackage<2,>=1'.",
    ]
    assert "is installed" in errors[0].message
    assert errors[1].message == "mascot needs nosuchpackage<2,>=1, and it is not installed."


def test_what_is_needed_is_read_from_the_installation() -> None:
    assert {"torch", "diffusers", "pydantic"} <= {
        requirement.name for requirement in package_versions.needed_packages()
    }
    assert "gradio" not in {requirement.name for requirement in package_versions.needed_packages()}


def test_other_versions_than_the_tested_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_versions, "tested_versions", lambda: {"torch": "1.0", "numpy": "9.9"})
    [note] = check_packages().findings
    torch_version = torch.__version__.partition("+")[0]
    assert note.severity == "note"
    assert f"torch {torch_version} (tested: 1.0)" in note.message
    assert note.remedy == "pip install numpy==9.9 torch==1.0 installs the tested ones."


def test_a_module_that_cannot_be_imported_is_found_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_versions, "import_fault", lambda name: "ImportError: no" * (name == "PIL.Image"))
    section = MachineSection("packages")
    check_imports(section)
    [finding] = section.findings
    assert finding.message == "PIL.Image cannot be imported (ImportError: no)."
    assert (
        finding.remedy == f"Run pip install --force-reinstall pillow=={package_versions.tested_versions()['pillow']}."
    )


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    tested = package_versions.tested_versions()
    assert set(SHOWN) <= set(tested)
    assert tested["imagehash"] == "4.3.2"


def test_every_extra_of_a_user_is_described_with_its_packages() -> None:
    """A new extra is described in EXTRAS, or is one of DEVELOPERS here."""
    listed = {
        name: {Requirement(line).name for line in lines}
        for name, lines in PROJECT["optional-dependencies"].items()
        if name not in DEVELOPERS
    }
    assert {name: set(extra.packages) for name, extra in EXTRAS.items()} == listed


def test_python_versions_are_those_of_the_project() -> None:
    versions = {f"{major}.{minor}" for major, minor in machine_facts.PYTHONS}
    assert versions == {
        line.rpartition(" ")[2]
        for line in PROJECT["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    }
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_another_python_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "PYTHONS", ((3, 1), (3, 2)))
    [finding] = machine_facts.check_system().findings
    assert finding.severity == "warning"
    assert "(3.1, 3.2)" in finding.message


# The device


def judged(**build: object) -> list[str]:
    """Severity and message of what is wrong with a build of torch."""
    return [f"{found.severity}: {found.message}" for found in TorchBuild(version="2.13.0", **build).findings()]  # pyright: ignore[reportArgumentType]


H200 = Gpu(name="NVIDIA H200", memory=140 * 2**30, capability=(9, 0))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ({}, ""),
        ({"cuda": "13.0"}, ""),
        ({"metal": True}, ""),
        ({"hip": "6.4", "gpus": [H200], "architectures": ("gfx942",)}, ""),
        ({"cuda": "13.0", "driver": 13010, "gpus": [H200], "architectures": ("sm_90",)}, ""),
        ({"driver": 12080}, "warning: This machine has an NVIDIA GPU, and torch was built without CUDA"),
        (
            {"cuda": "13.0", "driver": 12080},
            "warning: torch was built for CUDA 13.0, and the NVIDIA driver runs CUDA 12",
        ),
        ({"cuda": "12.8", "driver": 12080}, "warning: There is an NVIDIA driver, and torch finds no GPU"),
        (
            {"cuda": "13.0", "driver": 13010, "gpus": [H200], "architectures": ("sm_75", "sm_120")},
            "error: This build of torch has no kernels for NVIDIA H200 (compute capability 9.0).",
        ),
    ],
)
def test_a_build_of_torch_is_judged_beside_the_driver(build: dict[str, object], said: str) -> None:
    found = judged(**build)
    assert [text[: len(said)] for text in found] == ([said] if said else [])


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), (8, 0), True),
        (("sm_80",), (8, 9), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("compute_80",), (9, 0), True),
        (("compute_90",), (8, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_120",), (12, 0), True),
        (("gfx942",), (9, 4), False),
    ],
)
def test_kernels_run_on_later_gpus_of_their_generation(
    architectures: tuple[str, ...], capability: tuple[int, int], *, runs: bool
) -> None:
    assert has_kernels(architectures, capability) == runs


def test_a_precision_that_a_device_computes_wrongly_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fp16 is on some GPUs, which give NaN."""
    assert measure_precision("fp32", "cpu").works
    assert measure_precision("bf16", "cpu").works
    right = functional.conv2d

    def wrong(x: torch.Tensor, weight: torch.Tensor, *, padding: int) -> torch.Tensor:
        made = right(x, weight, padding=padding)
        return made * float("nan") if torch.is_autocast_enabled("cpu") else made

    monkeypatch.setattr(torch_build.functional, "conv2d", wrong)
    assert measure_precision("fp32", "cpu").works
    assert not measure_precision("bf16", "cpu").works


def finding_of(section: MachineSection, words: str) -> MachineFinding:
    """The only finding whose message has some words."""
    [found] = [finding for finding in section.findings if words in finding.message]
    return found


def test_a_device_that_computes_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build.functional, "conv2d", lambda x, *_, **__: x * x.new_tensor(float("nan")))
    section, _, precision = torch_build.check_device()
    assert finding_of(section, "wrongly in fp32").severity == "error"
    assert precision == "fp32"


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "available_memory", lambda _: 2**30)
    section, _, _ = torch_build.check_device()
    assert finding_of(section, "Only 1.0 GiB of memory").severity == "warning"


# Disk and cache


def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    section = machine_facts.check_storage()
    assert finding_of(section, "1.0 MiB are free on the disk here").severity == "warning"


def test_a_cache_that_cannot_be_written_is_an_error(
    mascot: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the remedy is true: another folder in MASCOT_CACHE."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "file"))
    code, _, errors = mascot("doctor", "--no-measure")
    assert code == 2
    assert errors == (
        "mascot: The cache folder cannot be written, so training cannot keep class images and tokens. "
        "Set MASCOT_CACHE to a folder that you may write to.\n"
    )
    monkeypatch.setenv("MASCOT_CACHE", str(tmp_path / "other"))
    assert mascot("doctor", "--no-measure")[0] == 0


def test_the_size_of_the_cache_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache" / "deeper").mkdir(parents=True)
    (tmp_path / "cache" / "deeper" / "a").write_bytes(bytes(3 * 2**20))
    (tmp_path / "cache" / "loop").symlink_to(tmp_path / "cache")
    facts = {fact.name: fact.value for fact in machine_facts.check_storage().facts}
    assert facts["cache"] == "3.0 MiB in 1 file, can be written"
    monkeypatch.setattr(machine_facts, "LARGE_CACHE", 2**20)
    assert finding_of(machine_facts.check_storage(), "The cache holds 3.0 MiB").severity == "note"


def test_python_calls_the_same_check() -> None:
    report = check_machine(measure=False)
    assert [section.title for section in report.sections] == ["machine", "packages", "device", "storage", "extras"]
    assert package.check_machine is check_machine
