"""`check_machine`: check this installation and this machine, and train ten known steps."""

from __future__ import annotations

from mascot.api.installation.machine_facts import check_storage, check_system
from mascot.api.installation.machine_report import MachineFinding, MachineReport, MachineSection
from mascot.api.installation.package_versions import (
    check_extras,
    check_packages,
    installed_version,
    pip_command,
    plain,
    tested_versions,
)
from mascot.errors import UserError, check_interrupted, is_out_of_memory, shorten

REPORT = "Report it with `mascot doctor --report FILE`; --no-measure leaves the canary out."


def check_machine(*, measure: bool = True) -> MachineReport:
    """Check Python, packages, device, memory, disk, cache and extras; nothing is written.

    `measure` also runs the canary, which takes about 20 seconds on two CPU cores. Without it torch
    is asked for its device all the same.
    """
    sections = [check_system(), check_packages()]
    if not sections[-1].findings or all(found.severity != "error" for found in sections[-1].findings):
        from mascot.api.installation.torch_build import check_device  # it imports torch, which may be broken

        section, device, precision = check_device()
        sections.append(section)
        if measure:
            sections.append(check_training(device, precision))
    return MachineReport(sections=[*sections, check_storage(), check_extras()])


def check_training(device: str, precision: str) -> MachineSection:
    """Run the canary on the CPU, and on the device that `auto` takes if that is another one."""
    section = MachineSection("canary")
    train_canary(section, "cpu", precision)
    if device != "cpu":
        train_canary(section, device, "fp32")
    return section


def train_canary(section: MachineSection, device: str, precision: str) -> None:
    """Run the canary, and add what it came to.

    Whatever makes it fail is a finding, as that is what it is for. On an accelerator a deviation is
    a warning, as the tolerances were measured on CPUs.
    """
    from mascot.api.installation.canary import check_canary, read_record

    name = f"ten steps on {device} in {precision}"
    try:
        record = read_record()
        result = check_canary(record, precision, device)
    except Exception as error:  # noqa: BLE001 - whatever breaks training is what the canary is for
        check_interrupted()
        section.add(name, "failed")
        section.findings.append(describe_failure(error))
        return
    deviations = ", ".join(
        f"{measure} {found:.2g} (at most {record.tolerances[measure]:g})"
        for measure, found in result.deviations.items()
    )
    section.add(name, "differs from the stored numbers" if result.exceeded else "as stored")
    section.add(f"deviations on {device}", deviations)
    section.add(
        f"time on {device}", f"{result.seconds:.1f} s in all, {result.seconds_per_step:.2f} s for the fastest step"
    )
    if result.exceeded:
        section.find(
            "error" if device == "cpu" else "warning",
            f"Training on {device} computes something else than it did when mascot was tested: "
            f"{', '.join(result.exceeded)} differ by more than rounding.",
            remedy(),
        )


def describe_failure(error: Exception) -> MachineFinding:
    """Say why the canary failed, and what helps."""
    if isinstance(error, UserError):  # its sentence ends in what to do
        return MachineFinding(severity="error", message="The canary did not train.", remedy=sentence(str(error)))
    if is_out_of_memory(error):
        return MachineFinding(
            severity="error",
            message="There is too little memory for the canary.",
            remedy="Close other programs, or use a machine with more memory.",
        )
    described = shorten(sentence(f"{type(error).__name__}: {error}"), 300)
    return MachineFinding(severity="error", message=f"The canary failed with {described}", remedy=remedy())


def sentence(text: str) -> str:
    """Write a text as one line that begins with a capital and ends in a full stop."""
    line = " ".join(text.split()).rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def remedy() -> str:
    """Say what helps where training is not what it was: the tested versions, or a report."""
    other = {
        name: tested
        for name, tested in tested_versions().items()
        if name in {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy"}
        and (found := installed_version(name))
        and plain(found) != tested
    }
    return f"Run {pip_command(other)}, and this command again." if other else REPORT
