"""Which packages are installed, which versions were tested, and which extras add what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mascot.api.installation.machine_report import MachineSection
from mascot.errors import check_interrupted, shorten
from mascot.storage.untrusted_files import UnreadableFile, read_text

TESTED = (Path(__file__).with_name("constraints.txt"), Path(__file__).parents[4] / "constraints.txt")
"""Where the tested versions are: in an installed package, and in a checkout."""
SHOWN = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "safetensors")
"""Packages that decide what training computes; they are listed with their versions."""
USED = ("numpy", "PIL.Image", "torch", "safetensors.torch", "accelerate", "transformers", "diffusers", "peft")
"""Modules that training imports, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An optional part of mascot, which brings packages of its own."""

    packages: Sequence[str]
    purpose: str
    """What it is for, as the end of a sentence."""


EXTRAS: Mapping[str, Extra] = {
    "studio": Extra(packages=("gradio",), purpose="the page in the browser"),
    "heic": Extra(packages=("pillow-heif",), purpose="photos of iPhones (.heic)"),
    "optimizers": Extra(
        packages=("bitsandbytes", "prodigyopt", "schedulefree"),
        purpose="the optimizers adamw8bit, prodigy and schedule-free, and base weights in 8 or 4 bits",
    ),
    "trackers": Extra(packages=("tensorboard",), purpose="the curves of a run in TensorBoard"),
    "search": Extra(packages=("optuna",), purpose="mascot sweep --trials"),
    "ray": Extra(packages=("ray",), purpose="mascot sweep --engine ray, on several machines"),
}
"""Extra -> what it brings, and what for."""


def check_packages() -> MachineSection:
    """Check the packages that mascot needs: there, new enough, tested, and importable."""
    section, tested = MachineSection("packages"), tested_versions()
    needed = needed_packages()
    for name in SHOWN:
        section.add(name, describe_version(installed_version(name), tested.get(name)))
    for requirement in needed:
        check_requirement(section, requirement)
    other = {
        name: tested[name]
        for name in sorted({*SHOWN, *(canonicalize_name(requirement.name) for requirement in needed)})
        if name in tested and (found := installed_version(name)) and plain(found) != tested[name]
    }
    if other:
        listed = ", ".join(f"{name} {plain(installed_version(name) or '')} (tested: {other[name]})" for name in other)
        section.find("note", f"Not the tested versions: {listed}.", f"{pip_command(other)} installs the tested ones.")
    check_imports(section)
    return section


def check_requirement(section: MachineSection, requirement: Requirement) -> None:
    """Check that a package is installed in a version that mascot takes."""
    found = installed_version(requirement.name)
    wanted = f"{requirement.name}{requirement.specifier}"
    if found is not None and requirement.specifier.contains(plain(found), prereleases=True):
        return
    state = "it is not installed" if found is None else f"{found} is installed"
    section.find("error", f"mascot needs {wanted}, and {state}.", f"Run pip install '{wanted}'.")


def check_imports(section: MachineSection) -> None:
    """Check that the modules of training can be imported."""
    if installed_version("torchvision") is not None and (fault := import_fault("torchvision")):
        section.find(
            "error",
            f"torchvision {installed_version('torchvision')} does not fit torch {installed_version('torch')}, and "
            f"diffusers fails with it ({fault}).",
            "Run pip uninstall torchvision, which mascot does not need, or install the torchvision of this torch.",
        )
        return
    for module in USED:
        if fault := import_fault(module):
            package = module.partition(".")[0].replace("PIL", "pillow")
            pinned = {package: tested_versions()[package]} if package in tested_versions() else {}
            section.find(
                "error",
                f"{module} cannot be imported ({fault}).",
                f"Run {pip_command(pinned, reinstall=True)}." if pinned else f"Reinstall {package}.",
            )
            return  # what comes after it needs it


def import_fault(module: str) -> str:
    """Import a module; returns why it cannot be imported, or an empty text."""
    try:
        imported = import_module(module)
        if module == "diffusers":  # its pipelines are imported when they are used
            _ = imported.StableDiffusionPipeline
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything, and the user is told
        check_interrupted()
        return shorten(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
    return ""


def check_extras() -> MachineSection:
    """List the optional extras: which are installed, what each is for, and how to install it."""
    section = MachineSection("extras")
    for name, extra in EXTRAS.items():
        found = {package: installed_version(package) for package in extra.packages}
        there = ", ".join(f"{package} {plain(installed)}" for package, installed in found.items() if installed)
        state = "installed" if all(found.values()) else f"pip install 'mascot[{name}]'"
        section.add(name, f"{extra.purpose}: {state}" + (f" ({there})" if there else ""))
    return section


@cache
def tested_versions() -> Mapping[str, str]:
    """Return the versions that the tests ran with, by canonical name; empty if unknown."""
    for path in TESTED:
        try:
            lines = read_text(path).splitlines()
        except UnreadableFile:
            continue
        pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
        return {canonicalize_name(name): pinned.strip() for name, pinned in pairs}
    return {}


def needed_packages() -> list[Requirement]:
    """List what mascot needs without extras; empty where it runs without being installed."""
    try:
        listed = requires("mascot") or []
    except PackageNotFoundError:
        return []
    parsed = [Requirement(line) for line in listed]
    return [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def installed_version(name: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe_version(found: str | None, tested: str | None) -> str:
    """Describe an installed version beside the tested one."""
    if found is None:
        return "not installed"
    if tested is None:
        return found
    return f"{found} (tested)" if plain(found) == tested else f"{found} (tested: {tested})"


def plain(found: str) -> str:
    """Return a version without its build: `2.13.0` for `2.13.0+cpu`."""
    return found.partition("+")[0]


def pip_command(versions: Mapping[str, str], *, reinstall: bool = False) -> str:
    """Write the command that installs packages in given versions."""
    words = ["pip install", *(["--force-reinstall"] if reinstall else [])]
    return " ".join([*words, *(f"{name}=={pinned}" for name, pinned in versions.items())])
