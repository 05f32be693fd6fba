"""Resampling along axes: the same grid and values as MONAI's, and no grid that rounding decides."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing

from pipeline.imaging.resampling import interpolate, interpolation_matrix, regrid_of, to_network_grid

SPACING_MM = np.array([0.7, 1.3, 2.2])
ORDERS_AND_FLIPS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def affine_of(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """Returns the affine of a scan whose axis i runs along world axis order[i], forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (along, sign) in enumerate(zip(order, flips, strict=True)):
        affine[along, axis] = sign * SPACING_MM[axis]
    affine[:3, 3] = (5, -7, 9)
    return affine


def volume(shape: tuple[int, ...] = (17, 13, 11)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).random(shape).astype(np.float32))


@pytest.mark.parametrize(("order", "flips"), ORDERS_AND_FLIPS)
def test_all_axis_orders_and_flips_give_what_monai_gives(order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    affine = affine_of(order, flips)
    ours = to_network_grid(volume(), regrid_of((17, 13, 11), affine, spacing_mm=(1.5, 0.9, 1.5)))
    turned = Orientation("RAS", labels=None)(MetaTensor(volume()[None], affine=torch.from_numpy(affine)))
    theirs = Spacing((1.5, 0.9, 1.5), mode="bilinear", dtype=torch.float64)(turned)
    assert theirs.shape[1:] == ours.shape
    torch.testing.assert_close(ours, theirs.as_tensor()[0], rtol=0, atol=1e-5)


def test_labels_take_the_nearest_voxel() -> None:
    regrid = regrid_of((5, 1, 1), np.eye(4), spacing_mm=(0.4, 1, 1))
    found = to_network_grid(torch.tensor([0.0, 1, 2, 3, 4]).reshape(5, 1, 1), regrid, nearest=True)
    assert found.flatten().tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_values_between_two_voxels_by_hand() -> None:
    regrid = regrid_of((3, 1, 1), np.diag([-2.0, 1, 1, 1]), spacing_mm=(1, 1, 1))
    # The scan runs to the left: seen to the right it is 30, 20, 10, and each mm is half a voxel.
    found = to_network_grid(torch.tensor([10.0, 20, 30]).reshape(3, 1, 1), regrid)
    assert found.flatten().tolist() == [30, 25, 20, 15, 10]


@pytest.mark.parametrize(("own", "wanted", "is_same"), [
    (1.0, 1.0009, True), (1.0, 1.002, False), (0.0005, 0.00025, False), (0.00025, 0.0002501, True),
])
def test_spacings_are_the_same_if_they_differ_by_rounding_alone(own: float, wanted: float, is_same: bool) -> None:
    assert regrid_of((9, 9, 9), np.diag([own] * 3 + [1]), spacing_mm=(wanted,) * 3).is_same_spacing is is_same


def test_spacing_of_zero_or_less_keeps_voxels_and_memory() -> None:
    scan = volume()
    regrid = regrid_of(scan.shape, np.diag([0.7, 1.3, 2.2, 1]), spacing_mm=(-1, 0, 2.2))
    assert regrid.is_same_spacing
    assert to_network_grid(scan, regrid).data_ptr() == scan.data_ptr()


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.9])
def test_rounding_in_an_affine_moves_no_grid(angle: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    exact, rounded = np.eye(4), np.eye(4)
    exact[:3, :3] = turn * 1.7
    rounded[:3, :3] = exact[:3, :3].astype(np.float32)
    grids = [regrid_of((33, 40, 25), affine, spacing_mm=(1.65, 1.65, 2.5)) for affine in (exact, rounded)]
    assert grids[0].shape == grids[1].shape
    assert grids[0].steps == pytest.approx(grids[1].steps, abs=1e-6)
    assert (grids[0].axes, grids[0].flipped) == (grids[1].axes, grids[1].flipped)


def test_positions_there_and_back_are_inverse() -> None:
    regrid = regrid_of((40, 30, 20), affine_of((1, 0, 2), (-1, 1, -1)), spacing_mm=(1, 1, 1))
    for axis in range(3):
        in_scan = regrid.positions_in_scan(axis)
        indices = np.arange(regrid.scan_shape[regrid.axes[axis]])
        back = np.interp(indices, np.sort(in_scan), np.arange(len(in_scan))[np.argsort(in_scan)])
        # The outermost position may have been drawn in to the scan's border.
        inside = (indices > np.sort(in_scan)[1]) & (indices < np.sort(in_scan)[-2])
        assert inside.sum() > 10
        assert regrid.positions_in_network(axis)[inside] == pytest.approx(back[inside], abs=1e-9)


def test_a_single_voxel_stays_itself() -> None:
    assert interpolation_matrix(np.array([0.0]), 1).tolist() == [[1.0]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_memory_order_is_kept_whatever_it_is_or_the_axis_laid_innermost(axis: int) -> None:
    matrix = interpolation_matrix(np.array([0.5, 2.0]), 4)
    for order in itertools.permutations(range(3)):
        turned = volume((4, 4, 4)).permute(order)
        found = interpolate(turned, axis, matrix)
        expected = torch.tensordot(turned, matrix, dims=([axis], [1])).movedim(-1, axis)
        torch.testing.assert_close(found, expected)
        assert np.argsort(found.stride()).tolist() == np.argsort(turned.stride()).tolist()
        turned_in = interpolate(turned, axis, matrix, innermost=True)
        torch.testing.assert_close(turned_in, expected)
        others = [other for other in np.argsort(turned.stride()).tolist() if other != axis]
        assert np.argsort(turned_in.stride()).tolist() == [axis, *others]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_longer_than_a_band_is_interpolated_as_a_whole(order: tuple[int, ...], axis: int) -> None:
    scan = volume((70, 50, 90)).permute(order)
    # Backwards, as along a flipped axis, and far more rows than are multiplied at once.
    positions = np.linspace(scan.shape[axis] - 1, 0, 133)
    found = interpolate(scan, axis, interpolation_matrix(positions, scan.shape[axis]))
    lower = np.minimum(np.floor(positions).astype(int), scan.shape[axis] - 2)
    share = torch.from_numpy(positions - lower).reshape([-1 if i == axis else 1 for i in range(3)])
    wanted = scan.index_select(axis, torch.from_numpy(lower)) * (1 - share) \
        + scan.index_select(axis, torch.from_numpy(lower + 1)) * share
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-6)
