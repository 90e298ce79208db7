"""Laws of training in replicas: as one replica, resumable, Muon for matrices, else Adam."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from starter_training.data_parallel import (
    Clock,
    Replica,
    SharedBuffers,
    assign_owners,
    count_parameters,
    is_matrix,
    launch,
    learning_rate_scale,
    share,
)

CPU = torch.device("cpu")
LEARNING_RATE = 1e-2


class Tiny(nn.Module):
    """A table, a matrix, a convolution, vectors: one of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(7, 6)
        self.linear = nn.Linear(24, 40)
        self.convolution = nn.Conv2d(6, 16, 3)
        self.norm = nn.LayerNorm(8)


def modules() -> list[nn.Module]:
    """Two modules with seeded weights that are trained together."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [Tiny(), nn.Linear(8, 12)]


def random_gradients(count: int, *, seed: int = 0, size: float = 1e-4) -> Tensor:
    """Gradients of `count` replicas, by default too small to be clipped."""
    return size * torch.randn(count, count_parameters(modules()), generator=torch.Generator().manual_seed(seed))


class Team:
    """Replicas over shared buffers, each in a thread of its own."""

    def __init__(self, count: int, optimizer: str = "muon") -> None:
        self.shared: SharedBuffers = share(modules(), count, CPU, threading)
        self.replicas = [
            Replica(modules(), self.shared, rank, learning_rate=LEARNING_RATE, betas=(0.9, 0.98), optimizer=optimizer)
            for rank in range(count)
        ]

    def each(self, act: Callable[[Replica], Any]) -> list[Any]:
        """Call `act` on all replicas at once, as they wait for each other; return the results."""
        with ThreadPoolExecutor(len(self.replicas)) as pool:
            waiting = [pool.submit(act, replica) for replica in self.replicas]
            return [one.result(timeout=60) for one in waiting]

    def step(self, gradients: Tensor, scale: float = 1.0, **options: float) -> None:
        """Do one step, with a row of gradients for each replica."""
        self.shared.gradients.copy_(gradients)
        self.each(lambda replica: replica.step(scale, **options))


# Sharing


def numbered(shapes: list[tuple[int, ...]]) -> list[tuple[str, nn.Parameter]]:
    return [(f"weight.{number}", nn.Parameter(torch.zeros(shape))) for number, shape in enumerate(shapes)]


def work_of(parameter: nn.Parameter) -> float:
    """Cost of an optimizer step: a matrix's size times its shorter side, or a vector's size."""
    rows = len(parameter)
    return parameter.numel() * (min(rows, parameter.numel() // rows) if parameter.ndim > 1 else 1)


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple), max_size=20), st.integers(1, 5))
def test_every_parameter_has_one_owner(shapes: list[tuple[int, ...]], count: int) -> None:
    """Each parameter is assigned once, and loads differ by no more than the heaviest parameter."""
    named = numbered(shapes)
    owned = assign_owners(named, count)
    assert sorted(number for numbers in owned for number in numbers) == list(range(len(named)))
    loads = [sum(work_of(named[number][1]) for number in numbers) for numbers in owned]
    assert len(loads) == count
    assert max(loads) - min(loads) <= max((work_of(parameter) for _, parameter in named), default=0)


def test_many_alike_are_divided_evenly() -> None:
    """The layers of a transformer are divided into two halves, within a tenth."""
    layer: list[tuple[int, ...]] = [
        (48, 48),
        (48, 48),
        (48, 48),
        (48, 48),
        (192, 48),
        (48, 192),
        (48,),
        (48,),
        (192,),
        (48,),
    ]
    named = numbered(layer * 6)
    one, other = (sum(work_of(named[number][1]) for number in numbers) for numbers in assign_owners(named, 2))
    assert abs(one - other) < 0.1 * one


def test_matrices_are_distinguished_from_embeddings() -> None:
    kinds = {name: is_matrix(name, parameter) for name, parameter in Tiny().named_parameters()}
    assert {name for name, matrix in kinds.items() if matrix} == {"linear.weight", "convolution.weight"}


def test_parameters_and_gradients_are_views_of_the_shared_memory() -> None:
    """An update by one replica reaches all; each one's gradients go into its own row."""
    team = Team(2)
    own = [replica.modules[1] for replica in team.replicas]
    with torch.no_grad():
        own[0].get_parameter("bias").fill_(3.0)
    assert torch.equal(own[1].get_parameter("bias"), torch.full((12,), 3.0))
    assert torch.equal(team.shared.parameters[-12:], torch.full((12,), 3.0))
    own[1](torch.ones(1, 8)).sum().backward()
    assert torch.equal(team.shared.gradients[1][-12:], torch.ones(12))
    assert team.shared.gradients[0].abs().sum() == 0


# Steps


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
@pytest.mark.parametrize("count", [2, 3])
def test_replicas_are_as_one(optimizer: str, count: int) -> None:
    """Parameters and their average end where one replica ends with the averaged gradient."""
    many, one = Team(count, optimizer), Team(1, optimizer)
    before = one.shared.parameters.clone()
    for seed in range(3):
        gradients = random_gradients(count, seed=seed)
        many.step(gradients, decay=0.9)
        one.step(gradients.mean(0, keepdim=True), decay=0.9)
    assert (one.shared.parameters - before).abs().mean() > LEARNING_RATE / 10
    assert (many.shared.parameters - one.shared.parameters).abs().max() < 1e-6
    assert (many.shared.average - one.shared.average).abs().max() < 1e-6


def test_clipping_is_of_the_global_norm() -> None:
    """All replicas scale by one factor: the joint gradient gets the norm `clip`."""
    team, gradients = Team(2), random_gradients(2, size=1.0)
    team.step(gradients, clip=0.5)
    mean, clipped = gradients.mean(0), torch.zeros(gradients.shape[1])
    for replica in team.replicas:
        for parameter, owned_slice in zip(replica.owned, replica.slices, strict=True):
            assert parameter.grad is not None
            clipped[owned_slice] = parameter.grad.reshape(-1)
    assert abs(clipped.norm().item() - 0.5) < 1e-4
    assert torch.allclose(clipped, mean * (0.5 / mean.norm()), atol=1e-6)


def test_small_gradients_are_not_clipped() -> None:
    team, gradients = Team(1), random_gradients(1)
    team.step(gradients)
    replica = team.replicas[0]
    for parameter, owned_slice in zip(replica.owned, replica.slices, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.reshape(-1), gradients[0, owned_slice])


def test_a_step_ends_clean() -> None:
    """Gradients are zero again, and the average has moved by 1 - decay."""
    team = Team(2)
    before = team.shared.average.clone()
    team.step(random_gradients(2), decay=0.75)
    assert team.shared.gradients.abs().sum() == 0
    assert torch.allclose(team.shared.average, before + 0.25 * (team.shared.parameters - before), atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_scale_is_a_share_of_the_learning_rate(optimizer: str) -> None:
    """Half of the learning rate moves parameters half as far; zero does not move them."""
    moves: list[Tensor] = []
    for scale in (1.0, 0.5, 0.0):
        team = Team(1, optimizer)
        before = team.shared.parameters.clone()
        team.step(random_gradients(1), scale)
        moves.append(team.shared.parameters - before)
    assert torch.allclose(moves[1], moves[0] / 2, atol=1e-6)
    assert moves[2].abs().max() == 0


def first_moves(optimizer: str, gradients: Tensor) -> dict[str, Tensor]:
    """The update of each parameter of `Tiny` in one step, by name."""
    team = Team(1, optimizer)
    tiny = team.replicas[0].modules[0]
    before = {name: parameter.detach().clone() for name, parameter in tiny.named_parameters()}
    team.step(gradients)
    return {name: parameter.detach() - before[name] for name, parameter in tiny.named_parameters()}


def test_muon_moves_in_all_directions_alike() -> None:
    """The singular values of a matrix's update are nearly equal, whatever the gradient's are.

    A convolution's matrix is out x rest.
    """
    gradients = random_gradients(1)
    stretched = {"linear.weight": slice(42, 42 + 960), "convolution.weight": slice(42 + 1000, 42 + 1000 + 864)}
    for name, rows in (("linear.weight", 40), ("convolution.weight", 16)):
        matrix = gradients[0, stretched[name]].view(rows, -1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        matrix.copy_(left @ torch.diag(values.mean() * torch.logspace(0, -1.5, len(values))) @ right)
    moves = first_moves("muon", gradients)
    for name in stretched:
        values = torch.linalg.svdvals(moves[name].flatten(1))
        assert values.max() < 2 * values.min()
        assert (
            0.1 * LEARNING_RATE < moves[name].square().mean().sqrt() < 0.3 * LEARNING_RATE
        )  # 0.2, the size of Adam's (Liu et al. 2025)
    by_adam = torch.linalg.svdvals(first_moves("adam", gradients)["linear.weight"])
    assert by_adam.max() > 3 * by_adam.min()


def test_tables_and_vectors_are_adam_s() -> None:
    """Adam's first step moves each value by the learning rate, against its gradient's sign.

    Muon's matrices move otherwise.
    """
    gradients = 1e-4 * random_gradients(1).sign()
    moves, by_adam = first_moves("muon", gradients), first_moves("adam", gradients)
    assert {name for name in moves if torch.equal(moves[name], by_adam[name])} == set(moves) - {
        "linear.weight",
        "convolution.weight",
    }
    assert torch.allclose(
        moves["word_embedding.weight"].reshape(-1), -LEARNING_RATE * gradients[0, :42].sign(), rtol=1e-3
    )
    assert max((move.abs() - LEARNING_RATE).abs().max().item() for move in by_adam.values()) < 1e-3 * LEARNING_RATE


# Saving


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_training_is_the_same(optimizer: str, tmp_path: Path) -> None:
    """The step after a resume equals the step without one, bit for bit; so does the average."""
    team, progress = Team(2, optimizer), {"seconds": 12.5, "step": 2.0, "begun": 1.0}
    for seed in range(2):
        team.step(random_gradients(2, seed=seed))
    team.each(lambda replica: replica.save(tmp_path, progress))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["optimizer0.pt", "optimizer1.pt", "weights.pt"]
    resumed = Team(2, optimizer)
    assert resumed.each(lambda replica: replica.resume(tmp_path)) == [progress, progress]
    for one in (team, resumed):
        one.step(random_gradients(2, seed=2), 0.5)
    assert torch.equal(team.shared.parameters, resumed.shared.parameters)
    assert torch.equal(team.shared.average, resumed.shared.average)
    for replica in resumed.replicas:
        flat = torch.cat([p.detach().reshape(-1) for module in replica.modules for p in module.parameters()])
        assert torch.equal(flat, resumed.shared.parameters)


def test_weights_alone_are_enough(tmp_path: Path) -> None:
    """Without the optimizers' files a training resumes with fresh ones and says when they began."""
    team = Team(2)
    team.step(random_gradients(2))
    team.each(lambda replica: replica.save(tmp_path, {"seconds": 3.0, "step": 40.0, "begun": 0.0}))
    for rank in range(2):
        (tmp_path / f"optimizer{rank}.pt").unlink()
    resumed = Team(2)
    assert resumed.each(lambda replica: replica.resume(tmp_path)) == [{"seconds": 3.0, "step": 40.0, "begun": 40.0}] * 2
    assert torch.equal(resumed.shared.parameters, team.shared.parameters)


def test_a_training_starts_at_zero(tmp_path: Path) -> None:
    assert Team(1).replicas[0].resume(tmp_path) == {"seconds": 0.0, "step": 0.0, "begun": 0.0}


# Time


def test_learning_rates_rise_hold_and_fall() -> None:
    """A hundredth after one of 100 warm-up steps, 1 after all, a fiftieth at the end."""
    assert learning_rate_scale(0.0, 0, warmup=100) == 0.01
    assert learning_rate_scale(0.4, 99, warmup=100) == learning_rate_scale(0.4, 5000, warmup=100) == 1
    assert abs(learning_rate_scale(1.0, 5000) - 0.02) < 1e-9
    falling = [learning_rate_scale(fraction / 100, 5000) for fraction in range(40, 101)]
    assert falling == sorted(falling, reverse=True)


def test_a_clock_counts_earlier_runs() -> None:
    clock = Clock(1.0, 45.0)
    assert 45 <= clock.seconds < 50
    assert 0.75 <= clock.fraction < 0.84
    assert Clock(1.0, 90.0).fraction == 1


# Processes


def step_once(rank: int, shared: SharedBuffers, folder: Path) -> None:
    """Do one step of a replica; several replicas are processes of their own."""
    own = modules()
    replica = Replica(own, shared, rank, learning_rate=LEARNING_RATE, betas=(0.9, 0.98))
    shared.gradients[rank].copy_(random_gradients(2)[rank])
    replica.step(1.0)
    if rank == 0:
        torch.save(shared.parameters.cpu(), folder / "parameters.pt")


def test_one_replica_runs_here(tmp_path: Path) -> None:
    launch(step_once, modules(), 1, tmp_path)
    team = Team(1)
    team.step(random_gradients(2)[:1])
    assert torch.equal(torch.load(tmp_path / "parameters.pt", weights_only=True), team.shared.parameters)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on an accelerator there is one replica")
def test_two_processes_are_as_two_threads(tmp_path: Path) -> None:
    launch(step_once, modules(), 2, tmp_path)
    team = Team(2)
    team.step(random_gradients(2))
    assert (torch.load(tmp_path / "parameters.pt", weights_only=True) - team.shared.parameters).abs().max() < 1e-6


def fail(rank: int, shared: SharedBuffers, folder: Path) -> None:
    """Fail as the second replica; the first waits for it and writes for how long."""
    if rank == 1:
        raise SystemExit(3)
    began = time.monotonic()
    with suppress(threading.BrokenBarrierError):
        shared.barrier.wait(timeout=60)
    (folder / "waited").write_text(f"{time.monotonic() - began}")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on an accelerator there is one replica")
def test_a_failed_replica_ends_the_training(tmp_path: Path) -> None:
    """No replica waits forever at a barrier that another will not reach."""
    with pytest.raises(SystemExit, match="a replica failed"):
        launch(fail, modules(), 2, tmp_path)
    assert float((tmp_path / "waited").read_text()) < 50


def sleep_on(rank: int, _shared: SharedBuffers, folder: Path) -> None:
    """Write the process's id, and never end."""
    (folder / f"{rank}.tmp").write_text(f"{os.getpid()}")
    (folder / f"{rank}.tmp").replace(folder / f"{rank}.pid")
    time.sleep(300)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on an accelerator there is one replica")
def test_a_terminated_training_leaves_no_process(tmp_path: Path) -> None:
    """The replicas end with the command that started them."""

    def terminate() -> None:
        while len(list(tmp_path.glob("*.pid"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    usual = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        launch(sleep_on, modules(), 2, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is usual
    for file in tmp_path.glob("*.pid"):
        ended = time.monotonic() + 20
        while Path(f"/proc/{file.read_text()}/cmdline").exists() and time.monotonic() < ended:
            with suppress(ChildProcessError):
                os.waitpid(int(file.read_text()), os.WNOHANG)
            time.sleep(0.05)
        assert not Path(f"/proc/{file.read_text()}").exists()
