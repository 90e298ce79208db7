"""Singular values of weight changes, exact or to a rank.

A product of factors has its singular values in a small core, which two QR decompositions find. Of
a whole matrix, the largest ones are found from a random start (Halko, Martinsson and Tropp 2011,
arXiv 0909.4061, algorithm 4.4), which is refined until the energy that it finds stays the same.

Shape suffixes: B changes of equal shape, M outputs, N inputs, R rank of the factors, K singular
values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from mascot.adapters.weight_changes.extraction import Energy
from mascot.adapters.weight_changes.low_rank import DenseChange, FactoredChange, WeightChange

OVERSAMPLED: Final = 12
"""Random directions beyond the rank that is asked for."""
MOST_REFINEMENTS: Final = 12
TOLERANCE: Final = 1e-6
"""Share of the energy by which a refinement must raise what is found, to be followed by another."""
FIRST_GUESS: Final = 32
"""Singular values that are looked for first where their number is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRule:
    """How many singular values are kept: at most a number, for an energy, or within a ratio."""

    rank: int | None = None
    """Most singular values."""
    energy: float | None = None
    """Share of the energy that is kept, 0..1."""
    ratio: float | None = None
    """Largest singular value over the smallest that is kept."""

    def count(self, singular_K: Tensor, changed: float) -> int:
        """Count the singular values that are kept, 1 at least; `changed` is the whole energy."""
        most = len(singular_K) if self.rank is None else min(self.rank, len(singular_K))
        if self.energy is not None:
            found_K = singular_K.double().square().cumsum(0)
            # The sum of squares and the energy of the matrix differ by rounding.
            enough = found_K >= self.energy * changed * (1 - 1e-6)
            most = min(most, int((~enough).sum()) + 1)
        if self.ratio is not None:
            most = min(most, int((singular_K * self.ratio >= singular_K[:1]).sum()))
        if not changed:
            return 1
        return max(most, 1)

    def met(self, singular_K: Tensor, changed: float) -> bool:
        """Tell whether the largest singular values of a matrix suffice to count."""
        if self.rank is not None and len(singular_K) >= self.rank:
            return True
        by_energy = self.energy is None or float(singular_K.double().square().sum()) >= self.energy * changed
        by_ratio = self.ratio is None or bool(singular_K[-1] * self.ratio < singular_K[0])
        return by_energy and by_ratio and (self.energy is not None or self.ratio is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """A change of fewer singular values, and the energy that it keeps."""

    change: FactoredChange
    energy: Energy

    @property
    def rank(self) -> int:
        """The number of singular values."""
        return self.change.down_RN.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SingularValues:
    """The largest singular values of B changes, and the whole energy of each."""

    left_BMK: Tensor
    singular_BK: Tensor
    right_BKN: Tensor
    changed_B: Tensor
    """Squared Frobenius norms, float64."""


@torch.no_grad()
def reduce_ranks(changes: Sequence[WeightChange], rule: RankRule) -> list[Reduction]:
    """Reduce changes of one size and one kind (factors of one rank, or whole) to the rule's ranks.

    Each factor carries the square root of the singular values. Equal changes give equal bits.
    """
    factored = [change for change in changes if isinstance(change, FactoredChange)]
    whole = [change for change in changes if isinstance(change, DenseChange)]
    assert not factored or not whole, "changes of one kind are reduced together"
    if factored:
        up_BMR = torch.stack([change.up_MR for change in factored])
        values = of_products(up_BMR, torch.stack([change.down_RN for change in factored]))
    else:
        values = of_matrices(torch.stack([change.change_MN for change in whole]), rule)
    return [reduced(values, number, change.kernel, rule) for number, change in enumerate(changes)]


def reduced(values: SingularValues, number: int, kernel: tuple[int, ...], rule: RankRule) -> Reduction:
    """Keep the singular values of one of several changes that a rule keeps."""
    singular_K, changed = values.singular_BK[number], float(values.changed_B[number])
    count = rule.count(singular_K, changed)
    root_K = singular_K[:count].clamp_min(0).sqrt()
    change = FactoredChange(
        up_MR=values.left_BMK[number, :, :count] * root_K,
        down_RN=root_K[:, None] * values.right_BKN[number, :count],
        kernel=kernel,
    )
    kept = float(singular_K[:count].double().square().sum())
    return Reduction(change=change, energy=Energy(changed=changed, kept=min(kept, changed)))


def of_products(up_BMR: Tensor, down_BRN: Tensor) -> SingularValues:
    """Find all singular values of products of two factors, by the QR decompositions of both."""
    left_BMQ, upper_BQR = torch.linalg.qr(up_BMR)
    right_BNP, lower_BPR = torch.linalg.qr(down_BRN.mT)
    core_BQP = upper_BQR @ lower_BPR.mT
    left_BQK, singular_BK, right_BKP = torch.linalg.svd(core_BQP, full_matrices=False)
    return SingularValues(
        left_BMK=left_BMQ @ left_BQK,
        singular_BK=singular_BK,
        right_BKN=right_BKP @ right_BNP.mT,
        changed_B=singular_BK.double().square().sum(1),
    )


def of_matrices(change_BMN: Tensor, rule: RankRule) -> SingularValues:
    """Find the singular values of whole matrices that a rule needs.

    Where the rule's number is unknown or large, more and more of them are found; past half of all,
    a plain decomposition is quicker.
    """
    full = min(change_BMN.shape[1:])
    changed_B = change_BMN.flatten(1).double().square().sum(1)
    unbounded = rule.energy is not None or rule.ratio is not None
    count = FIRST_GUESS if rule.rank is None else min(rule.rank, FIRST_GUESS) if unbounded else rule.rank
    while count + OVERSAMPLED < full / 2:
        found = from_random_start(change_BMN, count, changed_B)
        if found is None:
            break
        rows = zip(found.singular_BK, changed_B.tolist(), strict=True)
        if all(rule.met(singular_K[:count], changed) for singular_K, changed in rows):
            return found
        count *= 2
    return all_of_matrices(change_BMN, changed_B)


def all_of_matrices(change_BMN: Tensor, changed_B: Tensor) -> SingularValues:
    """Find all singular values; a tall matrix takes less time than a wide one."""
    wide = change_BMN.shape[1] < change_BMN.shape[2]
    tall = change_BMN.mT if wide else change_BMN
    basis, upper = torch.linalg.qr(tall)
    left, singular_BK, right = torch.linalg.svd(upper, full_matrices=False)
    left = basis @ left
    left, right = (right.mT, left.mT) if wide else (left, right)
    return SingularValues(left_BMK=left, singular_BK=singular_BK, right_BKN=right, changed_B=changed_B)


def from_random_start(change_BMN: Tensor, count: int, changed_B: Tensor) -> SingularValues | None:
    """Find the largest `count` singular values from random directions, and a few beyond.

    The directions are refined by power iterations. The energy found can only rise with each, up to
    that of a plain decomposition, and the refinement ends when it rises no more. The start is the
    same for matrices of one size.

    Returns:
        The values, or None if the energy was still rising at the end.
    """
    width = min(count + OVERSAMPLED, *change_BMN.shape[1:])
    start = torch.Generator().manual_seed(0)
    basis_BMW = torch.linalg.qr(change_BMN @ torch.randn(change_BMN.shape[2], width, generator=start)).Q
    before_B = torch.zeros_like(changed_B)
    for _ in range(MOST_REFINEMENTS):
        projected_BNW = change_BMN.mT @ basis_BMW
        inner_BWW = projected_BNW.mT.double() @ projected_BNW.double()
        found_B = torch.linalg.eigvalsh(inner_BWW)[:, -count:].sum(1)
        if bool((found_B - before_B <= TOLERANCE * changed_B).all()):
            return from_basis(basis_BMW, projected_BNW, changed_B)
        before_B = found_B
        basis_BMW = torch.linalg.qr(change_BMN @ torch.linalg.qr(projected_BNW).Q).Q
    return None


def from_basis(basis_BMW: Tensor, projected_BNW: Tensor, changed_B: Tensor) -> SingularValues:
    """Find the singular values of matrices that are seen through a basis of their outputs."""
    right_BNW, upper_BWW = torch.linalg.qr(projected_BNW)
    left_BWK, singular_BK, right_BKW = torch.linalg.svd(upper_BWW.mT, full_matrices=False)
    return SingularValues(
        left_BMK=basis_BMW @ left_BWK,
        singular_BK=singular_BK,
        right_BKN=right_BKW @ right_BNW.mT,
        changed_B=changed_B,
    )
