"""Where the runs of a sweep take place: in this process one after the other, or as tasks of a Ray cluster.

An engine maps items to outcomes lazily, in whatever order they are finished. What is mapped is told nothing of where it runs.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mascot.errors import UserError, suggest
from mascot.storage.atomic_write import atomic_write

Item = TypeVar("Item")


Outcome = TypeVar("Outcome")


RETRIES = 3
"""Times that a task is begun again after its worker died."""


class Executor(Protocol):
    """Maps items to outcomes lazily, and says which is whose.

    A task catches its own errors: an exception in an outcome's place says that the worker was lost, and with it this item alone.
    """

    def __call__(
        self, task: Callable[[Item], Outcome], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Yield each item with its outcome, as soon as it is there."""
        ...


def in_turn(task: Callable[[Item], Outcome], items: Sequence[Item]) -> Iterator[tuple[Item, Outcome | Exception]]:
    """Do one item after the other in this process; the next is begun when the last outcome has been taken."""
    for item in items:
        yield item, task(item)


def on_ray(address: str | None = None, *, retries: int = RETRIES, cpus: float = 1) -> Executor:
    """Make an engine whose items are tasks of a Ray cluster at `address`, by default one on this machine that ends with this process.

    Every task takes `cpus` cores, and one accelerator where the cluster has any. A task whose worker dies is begun again, `retries`
    times. Tasks and outcomes are pickled, and whatever folders they write must be the same for all machines of the cluster.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """
    ray = start_ray(address)
    needs = {"num_cpus": cpus, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}

    def engine(task: Callable[[Item], Outcome], items: Sequence[Item]) -> Iterator[tuple[Item, Outcome | Exception]]:
        remote = ray.remote(max_retries=retries, **needs)(perform)
        shared = ray.put(task)
        waiting: dict[Any, Item] = {remote.remote(shared, item): item for item in items}
        try:
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(ready), outcome_of(ray, ready)
        finally:
            for reference in waiting:
                ray.cancel(reference)  # as Ctrl-C does: what is under way keeps a checkpoint

    return engine


def start_ray(address: str | None) -> Any:
    """Connect to a Ray cluster, or to the one that this process is connected to already; nothing is reported to anyone."""
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # read when Ray is imported and by every process that it starts
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise UserError("Ray is not installed; `pip install 'mascot[ray]'`, or leave --engine out.") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"at {address}" if address else "on this machine"
            raise UserError(
                f"Ray cannot be used {where} ({first_line(error)}); check the address, or leave --engine out."
            ) from error
    return ray


def perform(task: Callable[[Item], Outcome], item: Item) -> Outcome:
    """Do one item; a function of its own, which Ray can name."""
    return task(item)


def outcome_of(ray: Any, reference: Any) -> Any:
    """What a finished task gave, or the error that says how its worker was lost."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error


def attempt(task: Callable[[], Outcome], kept: Path) -> Outcome | str:
    """Do something whose failure must not stop the rest: returns what came of it, or in one sentence why nothing did.

    Where a mistake in the code is to blame, `kept` is written: the file with where it happened. It is gone once the task ends well.
    """
    try:
        outcome = task()
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the other tasks can still be of use; what is wrong is kept and shown
        with atomic_write(kept) as temporary:
            temporary.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {first_line(error)} (all of it: {kept})"
    kept.unlink(missing_ok=True)
    return outcome


def first_line(error: BaseException) -> str:
    """What an error says, in one line, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


EXECUTORS: Mapping[str, Callable[[str | None], Executor]] = {"local": lambda _: in_turn, "ray": on_ray}
"""As the command line calls them -> what makes one, given an address."""


def make_executor(name: str, address: str | None = None) -> Executor:
    """Find an engine by its name; `address` is a Ray cluster's.

    Raises:
        UserError: there is none of that name, it cannot be used, or an address was given to one that has none.
    """
    if name not in EXECUTORS:
        raise UserError(f"unknown engine {name!r}{suggest(name, EXECUTORS)}")
    if address is not None and name == "local":
        raise UserError("--address is for --engine ray; leave it out, or give both.")
    return EXECUTORS[name](address)
