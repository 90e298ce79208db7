"""Executors run the work of an experiment in this process or as tasks of a Ray cluster.

An executor maps items to results lazily, in whatever order they finish. The mapped task does not
know where it runs.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mascot.errors import UserError, check_interrupted, is_out_of_memory, suggest
from mascot.storage.atomic_write import atomic_write

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 3
"""Number of times that a task is started again after its worker died."""


class Executor(Protocol):
    """Maps items to results lazily, and yields each item with its result.

    A task handles its own errors. An exception in place of a result says that the worker was lost,
    and with it this item alone.
    """

    def __call__(
        self, task: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result | Exception]]:
        """Yield each item with its result, as soon as it is finished."""
        ...


def run_serially(task: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result | Exception]]:
    """Run one item after the other in this process, each once the last result is taken."""
    for item in items:
        yield item, task(item)


def ray_executor(address: str | None = None, *, retries: int = RETRIES, cpus: float = 1) -> Executor:
    """Make an executor whose items are tasks of a Ray cluster.

    The cluster is at `address`, or is started on this machine and ends with this process. Each
    task takes `cpus` cores, and one accelerator if the cluster has any. A task whose worker dies
    is started again, `retries` times. Tasks and results are pickled. The folders that tasks write
    must be shared by all machines of the cluster.

    Raises:
        UserError: Ray is not installed, or the cluster does not answer.
    """
    ray = start_ray(address)
    needs = {"num_cpus": cpus, "num_gpus": 1 if ray.cluster_resources().get("GPU") else 0}

    def execute(task: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result | Exception]]:
        remote = ray.remote(max_retries=retries, **needs)(run_item)
        shared = ray.put(task)
        waiting: dict[Any, Item] = {remote.remote(shared, item): item for item in items}
        try:
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(ready), ray_result(ray, ready)
        finally:
            for reference in waiting:
                ray.cancel(reference)  # like Ctrl-C: a run that is under way writes a checkpoint

    return execute


def start_ray(address: str | None) -> Any:
    """Connect to a Ray cluster, or reuse the connection of this process; usage reports are off."""
    # Ray reads this when it is imported, and so does every process that it starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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


def run_item(task: Callable[[Item], Result], item: Item) -> Result:
    """Run a task on one item; Ray needs a function that it can name."""
    return task(item)


def ray_result(ray: Any, reference: Any) -> Any:
    """Return a finished task's result, or the error that says how its worker was lost."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return error


def result_or_failure(task: Callable[[], Result], traceback_file: Path) -> Result | str:
    """Run a task; returns its result, or a sentence that says why it failed.

    An error that the user cannot mend also writes its traceback to `traceback_file`. The file is
    removed once the task succeeds.
    """
    try:
        result = task()
    except UserError as error:
        check_interrupted()
        return str(error)
    except Exception as error:  # noqa: BLE001 - other tasks can still be of use; the error is kept and shown
        check_interrupted()
        if is_out_of_memory(error):
            return "There is too little memory for it."
        with atomic_write(traceback_file) as temporary:
            temporary.write_text(traceback.format_exc(), encoding="utf-8")
        return f"{type(error).__name__}: {first_line(error)} (traceback: {traceback_file})"
    traceback_file.unlink(missing_ok=True)
    return result


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's class name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


EXECUTORS: Mapping[str, Callable[[str | None], Executor]] = {"local": lambda _: run_serially, "ray": ray_executor}
"""Value of `--engine` to the function that makes the executor, given an address."""


def make_executor(name: str, address: str | None = None) -> Executor:
    """Make an executor by its name, `local` or `ray`; `address` is that of a Ray cluster.

    Raises:
        UserError: the name is unknown, the executor cannot be used, or `local` is given an address.
    """
    if name not in EXECUTORS:
        raise UserError(f"unknown engine {name!r} for --engine{suggest(name, EXECUTORS)}")
    if address is not None and name == "local":
        raise UserError("--address is for --engine ray; leave it out, or give both.")
    return EXECUTORS[name](address)
