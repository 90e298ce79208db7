"""Laws of LoRA extraction: both projections are the closest of their rank, and peft reads them.

All energy of a change is counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from mascot.adapters.lora_keys import (
    DOWN,
    METADATA_KEY,
    UP,
    name_in_file,
    name_in_module,
    read_settings,
    write_metadata,
)
from mascot.adapters.weight_changes.extraction import Energy, Extraction, extract, factor, group_of, representable
from mascot.diffusion.noise import seeded
from mascot.errors import UserError, list_some

SHAPES = ((7, 5), (5, 9), (6, 4, 3, 3), (4, 6, 1, 1))
FULL = 7


def change_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=seeded("change", *shape))


def product(down: Tensor, up: Tensor) -> Tensor:
    """Multiply both projections to the change of a layer's weight."""
    return (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])


def lost(change: Tensor, rank: int) -> float:
    """Measure the share of a change's energy that the product of its projections misses."""
    down, up, _ = factor(change, rank)
    return float((change - product(down, up)).double().square().sum() / change.double().square().sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_at_full_rank_the_change_is_whole(shape: tuple[int, ...]) -> None:
    change = change_of(shape)
    down, up, energy = factor(change, FULL)
    torch.testing.assert_close(product(down, up), change, atol=1e-5, rtol=1e-5)
    assert energy.share == 1
    assert energy.changed == pytest.approx(float(change.double().square().sum()), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_energy_kept_rises_with_the_rank_and_is_what_the_halves_really_keep(shape: tuple[int, ...]) -> None:
    shares = [factor(change_of(shape), rank)[2].share for rank in range(1, FULL + 1)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 1
    for rank, share in enumerate(shares, 1):
        assert 1 - share == pytest.approx(lost(change_of(shape), rank), abs=1e-6)


@given(st.integers(1, 5), st.integers(0, 10**6))
def test_no_other_halves_of_that_rank_come_closer(rank: int, number: int) -> None:
    change, generator = change_of((7, 5)), seeded("rival", number)
    rival = torch.randn(7, rank, generator=generator)
    projected = rival @ torch.linalg.lstsq(rival, change).solution  # the best possible with these columns
    missed = float((change - projected).double().square().sum() / change.double().square().sum())
    assert missed >= lost(change, rank) - 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_both_halves_have_one_shape_for_every_layer_and_equal_sizes(shape: tuple[int, ...]) -> None:
    """Zeros fill them where a layer has fewer singular values than the rank."""
    down, up, _ = factor(change_of(shape), 11)
    assert down.shape == (11, *shape[1:])
    assert up.shape == (shape[0], 11, *(1 for _ in shape[2:]))
    torch.testing.assert_close(down.flatten(1).norm(dim=1), up.flatten(1).norm(dim=0), atol=1e-5, rtol=1e-5)
    assert not down[9:].any()
    assert not up[:, 9:].any()


class Network(nn.Module):
    """A network with one layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.to_q = nn.Linear(4, 6)
        self.fc1 = nn.Linear(6, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.split = nn.Conv2d(4, 4, 1, groups=2)
        self.position = nn.Parameter(torch.zeros(2))

    def forward(self, ids: Tensor) -> Tensor:
        """Pass through every layer but the split one."""
        x = self.norm(self.fc1(self.to_q(self.embed(ids))))
        return self.conv(x[:, None])


def two_networks() -> tuple[Network, dict[str, Tensor], dict[str, Tensor]]:
    """Make a network, its weights, and its weights after training."""
    network = Network()
    base = {name: torch.randn(p.shape, generator=seeded("base", name)) for name, p in network.named_parameters()}
    trained = {
        name: value + 0.1 * torch.randn(value.shape, generator=seeded("push", name)) for name, value in base.items()
    }
    network.load_state_dict(base)
    return network, base, trained


def test_linear_layers_and_convolutions_of_one_group_are_representable() -> None:
    assert representable(Network()) == ["to_q", "fc1", "conv"]


def test_peft_reads_the_halves_as_they_are_meant() -> None:
    """Where only representable weights changed, peft's layers give the trained network's output."""
    network, base, trained = two_networks()
    layers = representable(network)
    trained = {name: trained[name] if name.removesuffix(".weight") in layers else value for name, value in base.items()}
    found = extract(network, base, trained, rank=FULL, layers=layers)
    ids = torch.arange(9)[None]
    network.load_state_dict(trained)
    expected = network(ids)
    network.load_state_dict(base)
    assert not torch.allclose(network(ids), expected, atol=1e-2)
    inject_adapter_in_model(LoraConfig(r=FULL, lora_alpha=FULL, target_modules=layers), network)
    for name in layers:
        layer: Any = network.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(found.tensors[name + DOWN])
        layer.lora_B["default"].weight.data.copy_(found.tensors[name + UP])
    torch.testing.assert_close(network(ids), expected, atol=1e-5, rtol=1e-5)
    assert found.energy.share == 1


def test_all_that_changed_is_counted_and_what_is_not_representable_is_left_out() -> None:
    network, base, trained = two_networks()
    found = extract(network, base, trained, rank=FULL, layers=representable(network))
    whole = sum(float((trained[name] - base[name]).double().square().sum()) for name in base)
    assert found.energy.changed == pytest.approx(whole, rel=1e-5)
    assert {group for group, energy in found.energies.items() if energy.kept == 0} == {
        "norms",
        "embeddings",
        "biases",
        "other weights",
    }
    assert found.energies["attention"].share == found.energies["feed-forward"].share == 1
    # The grouped convolution counts as a convolution and is left out.
    split = float((trained["split.weight"] - base["split.weight"]).double().square().sum())
    energy = found.energies["convolutions"]
    assert energy.changed - energy.kept == pytest.approx(split, rel=1e-4)


def test_the_rows_give_every_group_once_in_one_order() -> None:
    network, base, trained = two_networks()
    rows = dict(extract(network, base, trained, rank=1, layers=["conv", "to_q"]).rows("unet"))
    assert list(rows) == [
        "unet, all weights",
        "unet, attention",
        "unet, feed-forward",
        "unet, convolutions",
        "unet, norms",
        "unet, embeddings",
        "unet, biases",
        "unet, other weights",
    ]
    assert rows["unet, feed-forward"].startswith("left out; ")
    assert rows["unet, attention"].endswith("% of the change")
    assert "% kept; " in rows["unet, attention"]
    shares = [float(value.split("; ")[1].split("%")[0]) for name, value in rows.items() if name != "unet, all weights"]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_where_nothing_changed_the_rows_say_so_and_the_halves_are_zeros() -> None:
    network, base, _ = two_networks()
    found = extract(network, base, base, rank=2, layers=["to_q"])
    assert {value for _, value in found.rows("unet")} == {"unchanged"}
    assert not any(tensor.any() for tensor in found.tensors.values())
    assert Energy().share == 1


def test_the_same_weights_give_the_same_bits() -> None:
    network, base, trained = two_networks()
    one, other = (extract(network, base, trained, rank=3, layers=representable(network)).tensors for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_half_precision_weights_are_compared_in_full_precision() -> None:
    network, base, trained = two_networks()
    half = {name: value.bfloat16() for name, value in base.items()}
    found: Extraction = extract(network, half, trained, rank=FULL, layers=["fc1"])
    expected = trained["fc1.weight"] - half["fc1.weight"].float()
    torch.testing.assert_close(
        product(found.tensors["fc1" + DOWN], found.tensors["fc1" + UP]), expected, atol=1e-5, rtol=1e-5
    )


NAMED = {
    "blocks.0.attn1.to_out.0.weight": "attention",
    "layers.0.self_attn.out_proj.weight": "attention",
    "blocks.0.ff.net.0.proj.weight": "feed-forward",
    "layers.0.mlp.fc2.weight": "feed-forward",
    "time_embedding.linear_1.weight": "other linear layers",
    "blocks.0.attn1.to_q.bias": "biases",
}


@pytest.mark.parametrize("name", NAMED)
def test_linear_layers_are_distinguished_by_their_names(name: str) -> None:
    module: nn.Module = nn.Linear(2, 2)
    for child in reversed(name.split(".")[:-1]):
        module = nn.ModuleDict({child: module})
    assert group_of(module, name) == NAMED[name]


@pytest.mark.parametrize(
    ("part", "key", "name"),
    [
        ("unet", "down_blocks.0.to_q", "down_blocks.0.to_q"),
        ("text_encoder", "encoder.layers.0.fc1", "text_model.encoder.layers.0.fc1"),
        ("text_encoder_2", "encoder.layers.0.fc1", "text_model.encoder.layers.0.fc1"),
        ("text_encoder_2", "text_model.encoder.layers.0.fc1", "text_model.encoder.layers.0.fc1"),
    ],
)
def test_names_of_layers_are_written_as_other_tools_do_and_read_back(part: str, key: str, name: str) -> None:
    module = nn.Module()
    if key.startswith("text_model."):
        module.text_model = nn.Module()
    assert name_in_file(part, key) == name
    assert name_in_module(module, part, name) == key


def test_metadata_reads_back_as_written_and_damage_is_refused() -> None:
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["b", "a"]).to_dict()
    settings = read_settings(write_metadata({"unet": config}))["unet"]
    assert (settings.r, settings.lora_alpha) == (3, 5)
    assert read_settings({}) == {}
    for text in ("{", "[]", "[" * 10_000):
        with pytest.raises(UserError, match="export it again"):
            read_settings({METADATA_KEY: text})


def test_at_most_three_keys_are_named() -> None:
    assert list_some(["a", "b", "c"]) == "a, b, c"
    assert list_some(key for key in "abcde") == "a, b, c and 2 more"
