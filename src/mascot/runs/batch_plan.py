"""The plan of a run's micro-batches: whose photos each of them holds, and of which size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mascot.data.crops import Size
from mascot.data.dataset import Dataset


def plan_batches(
    dataset: Dataset, *, seed: int, micro_batches: int, batch_size: int
) -> list[tuple[Size, tuple[int, ...]]]:
    """Plan all micro-batches of a run: the size of each, and the indices of its examples.

    Each subject is used equally often, whatever its number of photos. Of a subject, each size is as
    frequent as its photos, and within a size each photo is used equally often. A longer plan begins
    with the shorter one, so that a run can be extended.

    Args:
        dataset: The examples of all subjects.
        seed: The seed that decides the order.
        micro_batches: Number of micro-batches.
        batch_size: Number of examples in each of them.
    """
    within = np.random.default_rng([seed, 2])
    subjects = len(dataset.class_of)
    groups = [examples_of(dataset, subject) for subject in range(subjects)]
    orders = [order_of_sizes(group, subject, seed, micro_batches) for subject, group in enumerate(groups)]
    used, led = [0] * subjects, [0] * subjects
    queues: dict[tuple[Size, int], list[int]] = defaultdict(list)
    plan: list[tuple[Size, tuple[int, ...]]] = []
    for _ in range(micro_batches):
        leading = min(range(subjects), key=used.__getitem__)
        size = orders[leading][led[leading]]
        led[leading] += 1
        chosen: list[int] = []
        for _ in range(batch_size):
            subject = min((s for s in range(subjects) if groups[s][size]), key=used.__getitem__)
            used[subject] += 1
            queue, group = queues[size, subject], groups[subject][size]
            if not queue:
                queue += within.permutation(len(group)).tolist()
            chosen.append(group[queue.pop(0)])
        plan.append((size, tuple(chosen)))
    return plan


def examples_of(dataset: Dataset, subject: int) -> dict[Size, list[int]]:
    """List the indices of a subject's examples within each size."""
    return {
        size: [index for index, example in enumerate(group) if example.subject == subject]
        for size, group in dataset.subject.items()
    }


def order_of_sizes(group: Mapping[Size, Sequence[int]], subject: int, seed: int, count: int) -> list[Size]:
    """Draw the sizes of the micro-batches that a subject leads, by how many photos have it."""
    rng = np.random.default_rng([seed, 1, subject] if subject else [seed, 1])
    sizes = sorted(group)
    share = np.array([len(group[size]) for size in sizes], float)
    return [sizes[index] for index in rng.choice(len(sizes), count, p=share / share.sum())]
