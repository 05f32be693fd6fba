import pytest
import torch
from monai.bundle import ConfigParser

from pipeline.engine.topology import (
    ARCHITECTURES,
    batch_size_for,
    features_of,
    memory_of_patch_gib,
    network_definition,
    plan_topology,
)
from pipeline.records.errors import InputError


def test_a_scan_of_up_to_two_budgets_is_one_patch_rounded_up_to_what_pooling_needs() -> None:
    topology = plan_topology((36, 50, 35), (1.0, 1.0, 1.0), architecture="UNet")
    # 63000 voxels are less than 2 * 2^15. 36 and 35 can be halved three times (a fourth gives less than 2.5), so
    # multiples of 8; the fourth halving of 50 alone is not worth a level.
    assert topology.patch_size == (40, 56, 40)
    assert topology.strides == ((2, 2, 2),) * 3


def test_a_larger_scan_gives_a_patch_of_equal_millimetres_within_the_budget() -> None:
    topology = plan_topology((512, 512, 200), (0.8, 0.8, 1.6), architecture="UNet")
    # Equal sides of s mm: (s / 0.8)^2 * (s / 1.6) = 2^15 gives s = 32.2, so 40 x 40 x 20 voxels; four halvings in
    # plane (40 / 16 = 2.5) and three across (20 / 8 = 2.5), which wait for one in plane, make them multiples of 16, 8.
    assert topology.patch_size == (48, 48, 24)
    assert topology.strides == ((2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_a_coarse_axis_is_not_halved_until_the_others_have_caught_up() -> None:
    topology = plan_topology((64, 64, 32), (1.0, 1.0, 4.0), architecture="UNet")
    # Spacing per level: 1, 1, 4 -> 2, 2, 4 (4 is not below 2 * 1) -> 4, 4, 4 (4 is not below 2 * 2) -> 8, 8, 8.
    assert topology.strides[:3] == ((2, 2, 1), (2, 2, 1), (2, 2, 2))


def test_basic_unet_takes_multiples_of_sixteen() -> None:
    assert plan_topology((30, 33, 28), (1.0, 1.0, 1.0), architecture="BasicUNet").patch_size == (32, 48, 32)


@pytest.mark.parametrize(("patch", "batch"), [((40, 56, 40), 2), ((128, 128, 128), 2), ((32, 32), 32)])
def test_batch_fills_the_voxel_budget_within_its_bounds(patch: tuple[int, ...], batch: int) -> None:
    # 3 * 2^16 = 196608 voxels: 89600 fit twice; 2097152 not once (2 at least); 1024 fit 192 times (32 at most).
    assert batch_size_for(patch, patch_gib=0.001, memory_gib=7.0).value == batch


def test_a_batch_takes_no_more_memory_than_it_may() -> None:
    # 32 patches of 0.5 GiB would take 16; 14 take 7.
    assert batch_size_for((32, 32), patch_gib=0.5, memory_gib=7.0).value == 14
    assert batch_size_for((32, 32), patch_gib=9.0, memory_gib=7.0).value == 1


def test_a_kernel_does_not_reach_along_a_coarse_axis_until_pooling_has_caught_up() -> None:
    topology = plan_topology((64, 64, 32), (1.0, 1.0, 4.0), architecture="DynUNet")
    # Spacing per level: 1 1 4, 2 2 4 (4 is not below 2 * 2), 4 4 4.
    assert topology.kernel_sizes[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_an_axis_that_never_catches_up_is_seen_at_the_deepest_level() -> None:
    # 20 * 20 * 4 voxels, whole: 20 10 5 2.5 in plane; z stays 4 long, and 1 1 40 becomes 8 8 40.
    topology = plan_topology((20, 20, 4), (1.0, 1.0, 40.0), architecture="DynUNet")
    assert topology.strides == ((2, 2, 1),) * 3
    assert topology.kernel_sizes == ((3, 3, 1), (3, 3, 1), (3, 3, 1), (3, 3, 3))


@pytest.mark.parametrize(("architecture", "patch", "levels"), [("UNet", (4, 4, 4), 1), ("DynUNet", (8, 8, 8), 2)])
def test_scans_too_small_to_halve_are_padded_to_what_the_network_needs(
    architecture: str, patch: tuple[int, ...], levels: int
) -> None:
    topology = plan_topology((4, 3, 4), (1.0, 1.0, 1.0), architecture=architecture)
    assert (topology.patch_size, topology.strides) == (patch, ((2, 2, 2),) * levels)
    definition = network_definition(architecture, topology, spatial_dims=3, out_channels=2)
    network = ConfigParser({"network": definition}).get_parsed_content("network").train()
    assert network(torch.zeros(1, 1, *patch)).shape == (1, 2, *patch)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("shape", "spacing"), [((40, 40, 20), (1.0, 1.0, 3.0)), ((40, 48), (1.0, 1.0))])
def test_every_network_keeps_the_patch_shape(
    architecture: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    topology = plan_topology(shape, spacing, architecture=architecture)
    definition = network_definition(architecture, topology, spatial_dims=len(shape), out_channels=3, width=4)
    network = ConfigParser({"network": definition}).get_parsed_content("network").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *topology.patch_size)).shape == (1, 3, *topology.patch_size)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_takes_as_many_channels_as_the_images_have(architecture: str) -> None:
    topology = plan_topology((64, 64), (1.0, 1.0), architecture=architecture)
    definition = network_definition(architecture, topology, spatial_dims=2, in_channels=3, out_channels=2, width=4)
    network = ConfigParser({"network": definition}).get_parsed_content("network").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, *topology.patch_size)).shape == (1, 2, *topology.patch_size)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("shape", "width"), [((40, 56, 40), 8), ((64, 64), 8), ((40, 40, 20), 4)])
def test_the_memory_forecast_has_room_for_what_autograd_keeps(
    architecture: str, shape: tuple[int, ...], width: int
) -> None:
    topology = plan_topology(shape, (1.0,) * len(shape), architecture=architecture)
    definition = network_definition(architecture, topology, spatial_dims=len(shape), out_channels=3, width=width)
    network = ConfigParser({"network": definition}).get_parsed_content("network").train()
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(torch.zeros(1, 1, *topology.patch_size))
    kept_gib = sum(size for pointer, size in kept.items() if pointer not in weights) / 2**30
    forecast = memory_of_patch_gib(architecture, topology, patch_size=topology.patch_size, width=width, out_channels=3)
    assert output.grad_fn is not None
    # Gradients, the convolutions' scratch and the loss come on top.
    assert 1.5 * kept_gib < forecast < 4.5 * kept_gib


def test_features_double_up_to_a_limit() -> None:
    topology = plan_topology((256, 256), (1.0, 1.0), architecture="UNet")
    assert features_of(topology, width=32) == [32, 64, 128, 256, 256, 256]
    assert features_of(topology, width=300) == [300] * 6


def test_an_unknown_architecture_names_the_known_ones() -> None:
    topology = plan_topology((32, 32), (1.0, 1.0), architecture="UNet")
    with pytest.raises(InputError, match="architecture VNet; expected one of UNet, BasicUNet"):
        network_definition("VNet", topology, spatial_dims=2, out_channels=2)
