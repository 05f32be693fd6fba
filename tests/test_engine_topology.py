import pytest
import torch
from monai.bundle import ConfigParser

from pipeline.engine.topology import ARCHITECTURES, batch_size_for, network_definition, plan_topology
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
    assert batch_size_for(patch) == batch


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("shape", "spacing"), [((40, 40, 20), (1.0, 1.0, 3.0)), ((40, 48), (1.0, 1.0))])
def test_every_network_keeps_the_patch_shape(
    architecture: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    topology = plan_topology(shape, spacing, architecture=architecture)
    definition = network_definition(architecture, topology, spatial_dims=len(shape), out_channels=3)
    network = ConfigParser({"network": definition}).get_parsed_content("network").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *topology.patch_size)).shape == (1, 3, *topology.patch_size)


def test_an_unknown_architecture_names_the_known_ones() -> None:
    topology = plan_topology((32, 32), (1.0, 1.0), architecture="UNet")
    with pytest.raises(InputError, match="architecture VNet; expected one of UNet, BasicUNet"):
        network_definition("VNet", topology, spatial_dims=2, out_channels=2)
