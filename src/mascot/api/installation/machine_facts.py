"""What the check of a machine says of Python, the system, the disk and the cache folder."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import psutil

import mascot
from mascot.api.installation.machine_report import MachineSection
from mascot.storage.untrusted_files import JSON_LIMIT, UnreadableFile, read_text
from mascot.storage.user_cache import cache_folder

PYTHONS = ((3, 11), (3, 12), (3, 13))
"""Versions of Python that mascot is made for."""
LITTLE_DISK = 2**30
"""Bytes; a run of the embedded base takes about a tenth of that."""
LARGE_CACHE = 10 * 2**30
"""Bytes from which on a cache is worth a word."""
PROCESSORS = Path("/proc/cpuinfo")


def check_system() -> MachineSection:
    """Check Python and the system."""
    section = MachineSection("machine")
    section.add("mascot", mascot.__version__)
    section.add("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        section.find(
            "warning",
            f"Python {platform.python_version()} is not one of those that mascot is made for ({known}).",
            "Install mascot into an environment with one of them.",
        )
    section.add("system", describe_system())
    section.add("processor", f"{processor_name()}, {usable_cores()} cores")
    return section


def describe_system() -> str:
    """Describe the operating system, its version, and what kind of processor it is for."""
    version = platform.mac_ver()[0] or platform.release()
    libc = " ".join(part for part in platform.libc_ver() if part)
    return ", ".join(filter(None, [f"{platform.system()} {version} {platform.machine()}", libc]))


def processor_name() -> str:
    """Return the processor's name, as far as the system tells it."""
    with suppress(UnreadableFile):
        for line in read_text(PROCESSORS, limit=JSON_LIMIT).splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Model", "Hardware"}:
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def check_storage() -> MachineSection:
    """Check the space on the disks, and the cache folder."""
    section, cache = MachineSection("storage"), cache_folder()
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", cache)):
        free = shutil.disk_usage(existing_parent(folder)).free
        section.add(name, f"{size_text(free)} free", folder)
        if free < LITTLE_DISK:
            section.find(
                "warning",
                f"Only {size_text(free)} are free on the {name}.",
                "Free some space, or work in another folder (--out) with another cache folder ($MASCOT_CACHE).",
            )
    size, count = measure_folder(cache)
    writable = can_write(cache)
    held = f"{size_text(size)} in {count} file{'s' * (count != 1)}" if count else "empty"
    section.add("cache", f"{held}, {'can' if writable else 'cannot'} be written", cache)
    if not writable:
        section.find(
            "error",
            "The cache folder cannot be written, so training cannot keep class images and tokens.",
            "Set MASCOT_CACHE to a folder that you may write to.",
        )
    elif size > LARGE_CACHE:
        section.find(
            "note",
            f"The cache holds {size_text(size)}.",
            "Delete it while no command runs, if you need the space: what it holds is made again.",
        )
    return section


def existing_parent(folder: Path) -> Path:
    """Return a folder, or its nearest parent that exists."""
    return next(
        (path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path(folder.absolute().anchor)
    )


def can_write(folder: Path) -> bool:
    """Tell whether a file can be written into a folder, or into the parent it would be made in."""
    place = folder if os.path.lexists(folder) else existing_parent(folder)
    try:
        with TemporaryFile(dir=place) as file:
            file.write(b"mascot")
    except OSError:
        return False
    return True


def measure_folder(folder: Path) -> tuple[int, int]:
    """Add up the bytes of all files in a folder, and count them."""
    sizes = list(file_sizes(folder))
    return sum(sizes), len(sizes)


def file_sizes(folder: Path) -> Iterator[int]:
    """Yield the size in bytes of every file in a folder; links are not followed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield (Path(parent) / name).lstat().st_size


def size_text(size: int) -> str:
    """Write bytes in gibibytes, or in mebibytes below one gibibyte."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
