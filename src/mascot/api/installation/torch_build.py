"""Whether torch's build fits the driver and the device, and what the device can compute."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from mascot.api.installation.machine_report import MachineFinding, MachineSection
from mascot.diffusion.noise import gaussian, seeded
from mascot.errors import check_interrupted
from mascot.models.devices import available_memory, choose_device, gib

LITTLE_MEMORY = 3 * 2**29
"""Bytes; training the embedded base takes about that."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ACCURATE = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.02}
"""Largest relative error of a layer in each precision; what fails gives NaN or nonsense."""
SLOW = 2.0
"""From this many times the time of fp32 on, another precision only costs."""
LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
"""Names of NVIDIA's driver library, by system."""
START = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU that torch can use."""

    name: str
    memory: int
    """Bytes."""
    capability: tuple[int, int]
    """NVIDIA's compute capability, major and minor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchBuild:
    """What torch was built for, and what there is of it."""

    version: str
    cuda: str | None = None
    """Version of CUDA that it was built with, such as `13.0`."""
    hip: str | None = None
    """Version of ROCm's HIP that it was built with."""
    metal: bool = False
    """Whether it was built for Apple's GPUs."""
    architectures: tuple[str, ...] = ()
    """GPU architectures that it has kernels for, such as `sm_90`."""
    driver: int | None = None
    """Newest CUDA that NVIDIA's driver runs, 1000 x major + 10 x minor; None without a driver."""
    gpus: Sequence[Gpu] = field(default_factory=tuple[Gpu, ...])

    @classmethod
    def here(cls) -> TorchBuild:
        """Look at the torch and at the driver of this machine."""
        gpus: list[Gpu] = []
        if torch.cuda.is_available():
            for number in range(torch.cuda.device_count()):
                facts = torch.cuda.get_device_properties(number)
                gpus.append(Gpu(name=facts.name, memory=facts.total_memory, capability=(facts.major, facts.minor)))
        return cls(
            version=torch.__version__,
            cuda=torch.version.cuda,
            hip=torch.version.hip,
            metal=torch.backends.mps.is_built(),
            architectures=tuple(torch.cuda.get_arch_list()),
            driver=newest_cuda_of_driver(),
            gpus=gpus,
        )

    @property
    def made_for(self) -> str:
        """What it was built for, in words."""
        kinds = [f"CUDA {self.cuda}"] * bool(self.cuda) + [f"ROCm {self.hip}"] * bool(self.hip)
        return " and ".join([*kinds, *["Metal"] * self.metal]) or "CPUs alone"

    def findings(self) -> Iterator[MachineFinding]:
        """Yield what does not fit: torch without CUDA, an old driver, a GPU without kernels."""
        if self.hip is not None:
            return
        if self.cuda is None and self.driver is not None:
            yield MachineFinding(
                severity="warning",
                message="This machine has an NVIDIA GPU, and torch was built without CUDA, so the CPU would train.",
                remedy=f"Install a build of torch for CUDA {self.driver // 1000} or earlier: {START} has the command.",
            )
        if self.cuda is not None and self.driver is not None and not self.gpus:
            yield self.judge_driver(int(self.cuda.partition(".")[0]), self.driver // 1000)
        for gpu in self.gpus if self.architectures else ():
            if not has_kernels(self.architectures, gpu.capability):
                major, minor = gpu.capability
                yield MachineFinding(
                    severity="error",
                    message=f"This build of torch has no kernels for {gpu.name} (compute capability {major}.{minor}).",
                    remedy=f"Install a build of torch that has: {START}; --set device=cpu trains without the GPU.",
                )

    def judge_driver(self, built: int, newest: int) -> MachineFinding:
        """Say why there is a driver and no GPU; both versions of CUDA are major ones."""
        if newest < built:
            return MachineFinding(
                severity="warning",
                message=f"torch was built for CUDA {self.cuda}, and the NVIDIA driver runs CUDA {newest} at most, so "
                "the CPU would train.",
                remedy=f"Update the driver, or install a build of torch for CUDA {newest}: {START} has the command.",
            )
        return MachineFinding(
            severity="warning",
            message="There is an NVIDIA driver, and torch finds no GPU that it can use, so the CPU would train.",
            remedy="Run nvidia-smi, and look at CUDA_VISIBLE_DEVICES: an empty one hides all GPUs.",
        )


def newest_cuda_of_driver() -> int | None:
    """Ask NVIDIA's driver for the newest CUDA that it runs; None without a driver."""
    for name in LIBRARIES:
        with suppress(OSError, AttributeError):
            found = ctypes.c_int(0)
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found)) == 0 and found.value:
                return found.value
    return None


def has_kernels(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Tell whether a build of torch has kernels for a GPU, or code that its driver can translate.

    Kernels of `sm_80` run on all of 8.x from 8.0 on; `compute_80` can be translated for later ones.
    """
    for name in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name)
        if found is None:
            continue
        kind, own = found[1], (int(found[2]), int(found[3]))
        if own <= capability and (kind == "compute" or own[0] == capability[0]):
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPrecision:
    """What a device makes of one precision."""

    works: bool
    seconds: float
    """Time of one forward and backward pass of a small layer."""


def measure_precision(name: str, device: str) -> MeasuredPrecision:
    """Run a small layer forward and backward in a precision, and compare it with float64."""
    x_BCHW = gaussian((32, 32, 32), [seeded("precision", number) for number in range(2)])
    weight = gaussian((32, 3, 3), [seeded("layer", number) for number in range(32)]) / 17
    right = functional.conv2d(x_BCHW.double(), weight.double(), padding=1)
    seconds, error = float("inf"), float("inf")
    try:
        x_BCHW, weight = x_BCHW.to(device), weight.to(device).requires_grad_()
        for _ in range(5):
            started = time.perf_counter()
            with torch.autocast(device, dtype=DTYPES[name], enabled=name != "fp32"):
                made = functional.conv2d(x_BCHW, weight, padding=1)
            made.float().square().mean().backward()
            error = float((made.detach().double().cpu() - right).abs().max() / right.abs().max())
            seconds = min(seconds, time.perf_counter() - started)
    except (RuntimeError, NotImplementedError):  # the device has no such layer
        check_interrupted()
        return MeasuredPrecision(works=False, seconds=seconds)
    finite = weight.grad is not None and bool(weight.grad.isfinite().all())
    return MeasuredPrecision(works=finite and error < ACCURATE[name], seconds=seconds)


def check_device() -> tuple[MachineSection, str, str]:
    """Check torch, the driver, the device, its memory and its precisions.

    Returns the section, the device that `auto` takes, and the precision of the canary on the CPU.
    """
    section, build, device = MachineSection("device"), TorchBuild.here(), choose_device("auto")
    section.add("torch", f"{build.version}, built for {build.made_for}")
    if build.driver is not None:
        section.add("NVIDIA driver", f"runs CUDA {build.driver // 1000}.{build.driver % 1000 // 10} at most")
    names = ", ".join(f"{gpu.name} ({gib(gpu.memory)})" for gpu in build.gpus)
    section.add("device", f"{device}: {names}" if names else device)
    section.add("threads", str(torch.get_num_threads()))
    section.findings += build.findings()
    check_memory(section, device)
    measured = {name: measure_precision(name, device) for name in DTYPES if device != "cpu" or name != "fp16"}
    section.add("precision", describe_precisions(measured, device))
    slow = measured["bf16"].seconds > SLOW * measured["fp32"].seconds
    if not measured["fp32"].works:
        section.find(
            "error",
            f"The device {device} computes a small layer wrongly in fp32.",
            "Reinstall torch; --set device=cpu trains on the CPU." if device != "cpu" else "Reinstall torch.",
        )
    elif device == "cpu" and (slow or not measured["bf16"].works):
        section.find(
            "note",
            "bf16 is slow on this CPU, or missing; presets of the embedded base train in it.",
            "Give --set precision=fp32.",
        )
    is_quick = measured["bf16"].works and not slow and device == "cpu"
    return section, device, "bf16" if is_quick else "fp32"


def check_memory(section: MachineSection, device: str) -> None:
    """Add the memory that there is, and warn where it is little."""
    free = available_memory("cpu")
    section.add("memory", f"{gib(free)} free")
    if free < LITTLE_MEMORY:
        section.find(
            "warning",
            f"Only {gib(free)} of memory are free; training the embedded base takes about {gib(LITTLE_MEMORY)}.",
            "Close other programs, or raise the limit of this container.",
        )
    if device != "cpu":
        section.add(f"memory of {device}", f"{gib(available_memory(device))} free")


def describe_precisions(measured: dict[str, MeasuredPrecision], device: str) -> str:
    """Describe which precisions training can take on a device."""
    names = [name for name, found in measured.items() if found.works]
    return ", ".join(names) + ("; fp16 does not train on a CPU" if device == "cpu" else "")
