"""Where the voxels of augmented patches come from: known maps by hand, and label and image together."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.engine.augmentation import generator_for
from pipeline.engine.augmentation_sampling import sampled_by_gathering, sampled_by_grid
from pipeline.engine.augmentation_spatial import SpatialAugmentation, SpatialMaps, rotations
from pipeline.records.errors import InputError

DIMS = pytest.mark.parametrize("dims", [2, 3])
DRAWS = 300
STILL: dict[str, Any] = {"rotation_rad": (0, 0, 0), "scale": 0.0, "elastic_prob": 0.0, "prob": 1.0}


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [generator_for(seed, position) for position in range(count)]


def maps_of(matrix: NDArray[np.float64], **changes: Any) -> SpatialMaps:
    """One map by `matrix` for a batch of one."""
    nothing = {"shift": np.zeros((1, len(matrix))), "mirrored": np.zeros((1, len(matrix)), dtype=bool), "knots": [None]}
    return SpatialMaps(**{"matrix": matrix[None], **nothing, **changes})


def batch(dims: int, size: int, count: int = 1, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and labels 0 to 2 that have nothing to do with them."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((count, channels, *[size] * dims), generator=generator)
    label = torch.randint(3, (count, 1, *[size] * dims), generator=generator, dtype=torch.uint8)
    return image, label


def middle(volume: torch.Tensor, size: int) -> torch.Tensor:
    for axis in range(2, volume.ndim):
        volume = volume.narrow(axis, (volume.shape[axis] - size) // 2, size)
    return volume


def centroid(volume: torch.Tensor) -> NDArray[np.float64]:
    axes = np.indices(volume.shape).reshape(volume.ndim, -1)
    weights = volume.double().numpy().ravel()
    return np.asarray((axes * weights).sum(axis=1) / weights.sum())


@pytest.mark.parametrize(("dims", "axis"), [(2, 0), (3, 0), (3, 1), (3, 2)])
@pytest.mark.parametrize("quarter", [1, -1])
def test_quarter_turn_is_rot90(dims: int, axis: int, quarter: int) -> None:
    image, label = batch(dims, 9)
    angles = np.zeros((1, 1 if dims == 2 else 3))
    angles[0, axis] = quarter * np.pi / 2
    plane = [2, 3] if dims == 2 else [2 + (axis + 1) % 3, 2 + (axis + 2) % 3]
    spatial = SpatialAugmentation(patch_size=[7] * dims)
    image_after, label_after = spatial.apply(image, label, maps_of(rotations(angles)[0]))
    # Seen from the patch, the voxels come from where the turn leads: the image turns the other way.
    torch.testing.assert_close(image_after, torch.rot90(middle(image, 7), -quarter, plane), rtol=0, atol=1e-5)
    assert torch.equal(label_after, torch.rot90(middle(label, 7), -quarter, plane))


@DIMS
def test_scaling_by_hand(dims: int) -> None:
    shape = (1, 1, 8, *[8] * (dims - 1))
    ramp = (10 * torch.arange(8.0)).reshape(1, 1, 8, *[1] * (dims - 1)).expand(shape)
    label = torch.arange(8, dtype=torch.uint8).reshape(1, 1, 8, *[1] * (dims - 1)).expand(shape)
    spatial = SpatialAugmentation(patch_size=[4] * dims)
    twice, _ = spatial.apply(ramp, label, maps_of(2 * np.eye(dims)))
    half, label_half = spatial.apply(ramp, label, maps_of(0.5 * np.eye(dims)))
    # The centre lies at 3.5: steps of 2 are 0.5, 2.5, 4.5, 6.5; steps of 0.5 are 2.75, 3.25, 3.75, 4.25.
    torch.testing.assert_close(twice.flatten(3)[0, 0, :, 0], torch.tensor([5.0, 25, 45, 65]))
    torch.testing.assert_close(half.flatten(3)[0, 0, :, 0], torch.tensor([27.5, 32.5, 37.5, 42.5]))
    assert label_half.flatten(3)[0, 0, :, 0].tolist() == [3, 3, 4, 4]


@DIMS
def test_shift_and_mirroring_by_hand(dims: int) -> None:
    image, label = batch(dims, 10)
    shift, mirrored = np.zeros((1, dims)), np.zeros((1, dims), dtype=bool)
    shift[0, 0], mirrored[0, 1] = 2, True
    maps = maps_of(np.eye(dims), shift=shift, mirrored=mirrored)
    image_after, label_after = SpatialAugmentation(patch_size=[6] * dims).apply(image, label, maps)
    # Two voxels further along x than the middle, and back to front along y.
    torch.testing.assert_close(image_after, middle(image.roll(-2, 2), 6).flip(3), rtol=0, atol=1e-5)
    assert torch.equal(label_after, middle(label.roll(-2, 2), 6).flip(3))


def test_displacement_by_hand() -> None:
    # Knots at both ends of x: 0 at the one, 1 voxel at the other, linear between them.
    knots = torch.zeros(2, 2, 2)
    knots[0, 1] = 1
    ramp = torch.arange(9.0).reshape(1, 1, 9, 1).expand(1, 1, 9, 9)
    maps = maps_of(np.eye(2), knots=[knots])
    after, _ = SpatialAugmentation(patch_size=(5, 5)).apply(ramp, ramp, maps)
    torch.testing.assert_close(after[0, 0, :, 0], torch.tensor([2.0, 3.25, 4.5, 5.75, 7.0]))


def test_a_rotation_turns_millimetres() -> None:
    spacing = np.array([1.0, 2.0, 3.0])
    spatial = SpatialAugmentation(patch_size=(8, 8, 8), spacing_mm=spacing, rotation_rad=(1, 1, 1), scale=0, prob=1)
    matrix = spatial.draw(generators(5)).matrix
    in_mm = spacing[:, None] * matrix / spacing
    np.testing.assert_allclose(in_mm @ in_mm.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)
    assert np.abs(matrix[:, 0, 2] / in_mm[:, 0, 2]) == pytest.approx(3)


@DIMS
def test_one_factor_for_all_axes_or_one_for_each(dims: int) -> None:
    one = SpatialAugmentation(patch_size=[8] * dims, **{**STILL, "scale": 0.3}).draw(generators(20)).matrix
    each = SpatialAugmentation(patch_size=[8] * dims, **{**STILL, "scale": [0.3] * dims}).draw(generators(20)).matrix
    assert (one[:, 0, 0] == one[:, 1, 1]).all()
    assert (each[:, 0, 0] != each[:, 1, 1]).all()
    assert np.ptp(one[:, 0, 0]) > 0.3


@DIMS
def test_label_and_image_stay_registered(dims: int) -> None:
    spatial = SpatialAugmentation(patch_size=[24] * dims, prob=1, elastic_prob=1, mirror_axes=range(dims),
                                  shift_voxels=[3] * dims)
    size = spatial.source_size[0]
    label = torch.zeros(20, 1, *[size] * dims, dtype=torch.uint8)
    label[(slice(None), 0, *[slice(size // 2 - 2, size // 2 + 5)] * dims)] = 1
    image_after, label_after = spatial(label.float(), label, generators(20))
    distances = np.array([centroid(marker[0]) - centroid(mask[0].float())
                          for marker, mask in zip(image_after, label_after, strict=True)])
    assert np.abs(distances).max() < 0.4
    assert np.abs(distances.mean(axis=0)).max() < 0.1
    assert ((image_after > 0.5) == label_after.bool()).float().mean() > 0.97


@DIMS
def test_both_ways_to_sample_agree(dims: int) -> None:
    image, label = batch(dims, 9, count=2, channels=2)
    # Also a voxel beyond the border, and an axis of a single voxel.
    for source in (image, image[:, :, :1]):
        generator = torch.Generator().manual_seed(0)
        points = torch.rand((2, dims, *[6] * dims), generator=generator) * 11 - 1
        by_gathering = sampled_by_gathering(source, label[:, :, : source.shape[2]], points)
        by_grid = sampled_by_grid(source, label[:, :, : source.shape[2]], points)
        torch.testing.assert_close(by_gathering[0], by_grid[0], rtol=0, atol=1e-5)
        assert torch.equal(by_gathering[1], by_grid[1])


@DIMS
@pytest.mark.parametrize("allowed", [0, 1])
@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_only_allowed_axes_are_mirrored(dims: int, allowed: int, prob: float) -> None:
    spatial = SpatialAugmentation(patch_size=[12] * dims, prob=prob, elastic_prob=0, mirror_axes=(allowed,))
    size = spatial.source_size[0]
    # Each image is a ramp along its axis: after mirroring it falls.
    ramps = [torch.arange(float(size)).reshape([-1 if k == axis else 1 for k in range(dims)]).expand([size] * dims)
             for axis in range(dims)]
    image = torch.stack(ramps)[None].expand(30, *[-1] * (dims + 1))
    after, _ = spatial(image, image[:, :1], generators(30))
    falls = [[bool((one[axis].diff(dim=axis) < 0).all()) for axis in range(dims)] for one in after]
    rises = [[bool((one[axis].diff(dim=axis) > 0).all()) for axis in range(dims)] for one in after]
    assert all(rises[i][axis] for i in range(30) for axis in range(dims) if axis != allowed)
    assert 5 < sum(row[allowed] for row in falls) < 25
    assert all(fall[allowed] != rise[allowed] for fall, rise in zip(falls, rises, strict=True))


def test_nothing_is_mirrored_by_default() -> None:
    spatial = SpatialAugmentation(patch_size=(8, 8, 8))
    assert not spatial.draw(generators(50)).mirrored.any()


def test_2d_counts_axes_of_the_volume() -> None:
    spatial = SpatialAugmentation(patch_size=(1, 9, 8), slice_axis=0, spacing_mm=(-1, 1, 1), mirror_axes=(2,),
                                  shift_voxels=(7, 0, 3), **STILL)
    assert spatial.source_size == (1, 9, 14)
    maps = spatial.draw(generators(50))
    assert maps.mirrored.any(axis=0).tolist() == [False, True]
    assert (maps.shift != 0).any(axis=0).tolist() == [False, True]


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, (9, 9)),
    ({"scale": 0.25}, (11, 11)),  # 4 * 1.25 = 5 from the centre: 1 more on either side
    ({"scale": (0.25, 0)}, (11, 9)),
    ({"rotation_rad": (np.pi / 4,)}, (13, 13)),  # 4 * sqrt(2) = 5.7
    ({"rotation_rad": (np.pi / 2,), "scale": 0.3}, (17, 17)),  # 5.2 * sqrt(2) = 7.4
    ({"shift_voxels": (3, 0)}, (15, 9)),
    ({"elastic_prob": 0.1, "elastic_voxels": 1.5, "spacing_mm": (1, 2)}, (13, 11)),  # 1.5 and 0.75 voxels
    ({"prob": 0.0, "scale": 0.25}, (9, 9)),
])
def test_source_size_by_hand(changes: dict[str, Any], expected: tuple[int, int]) -> None:
    assert SpatialAugmentation(patch_size=(9, 9), **{**STILL, **changes}).source_size == expected


def within_nan(source: tuple[int, ...]) -> torch.Tensor:
    """A volume of ones as large as the source, in another that is NaN."""
    volume = torch.full((1, 1, *[size + 20 for size in source]), torch.nan)
    volume[(0, 0, *[slice(10, -10)] * len(source))] = 1
    return volume


BOXES = pytest.mark.parametrize("box", [
    {"patch_size": (9, 8)}, {"patch_size": (20, 10), "spacing_mm": (1, 3), "rotation_rad": (2.0,)},
    {"patch_size": (8, 9, 7)}, {"patch_size": (12, 6, 4), "spacing_mm": (1, 1.5, 3), "rotation_rad": (0.5, 0.2, 1)},
])


@BOXES
def test_nothing_beyond_the_source_is_ever_read(box: dict[str, Any]) -> None:
    spatial = SpatialAugmentation(prob=1, elastic_prob=1, shift_voxels=(1, 2, 0), scale=0.2, **box)
    volume = within_nan(spatial.source_size)
    many = volume.expand(DRAWS, *volume.shape[1:])
    image, label = spatial(many, many, generators(DRAWS))
    torch.testing.assert_close(image, torch.ones_like(image))
    assert (label == 1).all()


@BOXES
def test_the_farthest_corners_lie_in_the_source(box: dict[str, Any]) -> None:
    spatial = SpatialAugmentation(elastic_prob=0, scale=0.2, **box)
    volume = within_nan(spatial.source_size)
    angles = np.stack(np.meshgrid(*[np.linspace(-limit, limit, 7) for limit in spatial.angles]), axis=-1)
    for turn in rotations(angles.reshape(-1, len(spatial.angles))):
        image, _ = spatial.apply(volume, volume, maps_of(1.2 * turn * spatial.spacing / spatial.spacing[:, None]))
        torch.testing.assert_close(image, torch.ones_like(image))


def test_the_source_is_no_larger_than_rotations_need() -> None:
    # 15 degrees about each axis: farthest from the centre lie corners, some 1.5 times as far as the faces.
    size = SpatialAugmentation(patch_size=(40, 40, 40), prob=1, scale=0, elastic_prob=0).source_size[0]
    assert 54 <= size <= 62


@pytest.mark.parametrize("wrong", [
    {"prob": 1.5}, {"rotation_rad": (4, 0, 0)}, {"scale": 1.0}, {"shift_voxels": (-1, 0, 0)}, {"mirror_axes": (3,)},
    {"elastic_voxels": 5, "elastic_spacing_voxels": 8},
])
def test_spatial_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        SpatialAugmentation(patch_size=(8, 8, 8), **wrong)
