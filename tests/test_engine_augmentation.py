"""Batch augmentation as a whole: reproducible whatever the batch, and distributed as MONAI's transforms are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from pipeline.engine.augmentation import BatchAugmentation
from pipeline.engine.augmentation_intensity import IntensityAugmentation
from pipeline.engine.augmentation_spatial import SpatialAugmentation
from pipeline.records.errors import InputError

DIMS = pytest.mark.parametrize("dims", [2, 3])
DRAWS = 300
STILL: dict[str, Any] = {"rotation_rad": (0, 0, 0), "scale": 0.0, "elastic_prob": 0.0, "prob": 1.0}
KINDS = ("blur", "low_resolution", "gamma", "contrast", "brightness", "noise")
PLAIN: dict[str, Any] = {f"{kind}_prob": 0.0 for kind in KINDS}
ALL_OF_IT: dict[str, Any] = {f"{kind}_prob": 1.0 for kind in KINDS}


def batch(dims: int, size: int, count: int = 1, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, and labels 0 to 2 that have nothing to do with them."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((count, channels, *[size] * dims), generator=generator)
    label = torch.randint(3, (count, 1, *[size] * dims), generator=generator, dtype=torch.uint8)
    return image, label


def augmentation(dims: int, *, size: int = 8, seed: int = 0, is_on: bool = True, **intensity: Any) -> BatchAugmentation:
    spatial = SpatialAugmentation(patch_size=[size] * dims, prob=1.0, elastic_prob=1.0, mirror_axes=(1,))
    return BatchAugmentation(seed=seed, spatial=spatial, intensity=IntensityAugmentation(**intensity), is_on=is_on)


@DIMS
def test_no_range_is_the_identity(dims: int) -> None:
    image, label = batch(dims, 7, count=3)
    whole = BatchAugmentation(
        seed=0, spatial=SpatialAugmentation(patch_size=[7] * dims, **{**STILL, "elastic_prob": 1.0}, elastic_voxels=0),
        intensity=IntensityAugmentation(**ALL_OF_IT, blur_sigma_voxels=(0, 0), low_resolution=(1, 1), gamma=(1, 1),
                                        contrast=(1, 1), brightness=(0, 0), noise_std=(0, 0)),
    )
    assert whole.source_size == (7,) * dims
    image_after, label_after = whole({"image": image, "label": label, "position": torch.arange(3)})
    assert torch.equal(image_after, image)
    assert torch.equal(label_after, label)


@DIMS
def test_a_patch_is_a_function_of_seed_and_position(dims: int) -> None:
    whole = augmentation(dims, **ALL_OF_IT)
    image, label = batch(dims, whole.source_size[0], count=3, channels=2)
    together = whole({"image": image, "label": label, "position": torch.tensor([5, 9, 2])})
    for rows, positions in (([1], [9]), ([2, 1], [2, 9])):
        again = whole({"image": image[rows], "label": label[rows], "position": positions})
        assert torch.equal(again[0], together[0][rows])
        assert torch.equal(again[1], together[1][rows])
    other_seed = augmentation(dims, seed=1, **ALL_OF_IT)
    other = other_seed({"image": image[1:2], "label": label[1:2], "position": [9]})[0]
    elsewhere = whole({"image": image[1:2], "label": label[1:2], "position": [10]})[0]
    for changed in (other, elsewhere):
        assert (changed - together[0][1:2]).abs().mean() > 0.05


@DIMS
def test_autocast_changes_nothing(dims: int) -> None:
    whole = augmentation(dims, **ALL_OF_IT)
    image, label = batch(dims, whole.source_size[0], count=2)
    content = {"image": image, "label": label, "position": [0, 1]}
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = whole(content)
    assert torch.equal(under_autocast[0], whole(content)[0])
    assert under_autocast[0].dtype == torch.float32


def test_a_batch_is_not_changed_in_place() -> None:
    whole = augmentation(2, **ALL_OF_IT)
    image, label = batch(2, whole.source_size[0])
    before = image.clone(), label.clone()
    whole({"image": image, "label": label, "position": [0]})
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_off_it_only_moves_the_batch() -> None:
    off = augmentation(3, is_on=False, **ALL_OF_IT)
    assert off.source_size == (8, 8, 8)
    image, label = batch(3, 8)
    found = off({"image": image, "label": label, "position": [0]}, "cpu", False)
    assert torch.equal(found[0], image)
    assert torch.equal(found[1], label)
    assert found[1].dtype == torch.int64


def test_arguments_of_to_reach_the_image() -> None:
    whole = augmentation(3)
    image, label = batch(3, whole.source_size[0], channels=2)
    found, _ = whole({"image": image, "label": label, "position": [0]}, torch.device("cpu"),
                     memory_format=torch.channels_last_3d)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_patches_of_another_size_are_refused() -> None:
    image, label = batch(3, 8)
    with pytest.raises(InputError, match="source_size"):
        augmentation(3)({"image": image, "label": label, "position": [0]})


# The same distributions as MONAI's: a statistic of some hundred draws on either side, Kolmogorov-Smirnov.


def centroid(volume: torch.Tensor) -> NDArray[np.float64]:
    axes = np.indices(volume.shape).reshape(volume.ndim, -1)
    weights = volume.double().numpy().ravel()
    return np.asarray((axes * weights).sum(axis=1) / weights.sum())


def markers(dims: int, size: int) -> torch.Tensor:
    """Two channels, a blob in each: 8 voxels before and behind the centre along x."""
    grid = np.indices([size] * dims) - (size - 1) / 2
    blobs = []
    for place in (-8, 8):
        squares = (grid[0] - place) ** 2 + (grid[1:] ** 2).sum(axis=0)
        blobs.append(np.exp(-squares / 8))
    return torch.from_numpy(np.stack(blobs)).float()


def angle_rad(image: torch.Tensor) -> float:
    x, y = (centroid(image[1]) - centroid(image[0]))[:2]
    return float(np.arctan2(y, x))


def distance(image: torch.Tensor) -> float:
    return float(np.linalg.norm(centroid(image[1]) - centroid(image[0])))


def draws_of_ours(image: torch.Tensor, spatial: dict[str, Any], intensity: dict[str, Any]) -> list[torch.Tensor]:
    moving = SpatialAugmentation(patch_size=image.shape[1:], **{**STILL, **spatial})
    margins = [(source - size) // 2 for source, size in zip(moving.source_size, image.shape[1:], strict=True)]
    # torch.nn.functional.pad begins with the last axis.
    padded = torch.nn.functional.pad(image, [margin for margin in reversed(margins) for _ in range(2)])
    source = padded[None].expand(DRAWS, *padded.shape)
    ours = BatchAugmentation(seed=0, spatial=moving, intensity=IntensityAugmentation(**{**PLAIN, **intensity}))
    return list(ours.augmented(source, source[:, :1], range(DRAWS))[0])


def draws_of_monai(image: torch.Tensor, transform: Any) -> list[torch.Tensor]:
    transform.set_random_state(seed=0)
    return [torch.as_tensor(transform({"image": image.clone()})["image"]) for _ in range(DRAWS)]


@DIMS
@pytest.mark.parametrize(("kind", "statistic"), [("rotation", angle_rad), ("scale", distance)])
def test_rotation_and_scale_are_distributed_as_monais(
    dims: int, kind: str, statistic: Callable[[torch.Tensor], float]
) -> None:
    image = markers(dims, 27)
    ours: dict[str, dict[str, Any]] = {
        "rotation": {"rotation_rad": (0.5,) if dims == 2 else (0, 0, 0.5)}, "scale": {"scale": [0.2] * dims},
    }
    theirs: dict[str, dict[str, Any]] = {
        "rotation": {"rotate_range": 0.5 if dims == 2 else (0, 0, 0.5)}, "scale": {"scale_range": [0.2] * dims},
    }
    monai = RandAffined(keys="image", prob=0.8, mode="bilinear", padding_mode="zeros", **theirs[kind])
    their_values = [statistic(one) for one in draws_of_monai(image, monai)]
    for share, is_same in ((1.0, True), (0.6, False)):
        (name, limits), = ours[kind].items()
        narrowed = {name: [share * limit for limit in limits], "prob": 0.8}
        found = [statistic(one) for one in draws_of_ours(image, narrowed, {})]
        assert (ks_2samp(found, their_values).pvalue > 0.05) == is_same


@DIMS
@pytest.mark.parametrize(("ours", "narrower", "theirs", "statistic"), [
    ({"contrast_prob": 0.8, "contrast": (0.75, 1.25)}, {"contrast": (0.85, 1.15)},
     RandScaleIntensityd("image", factors=0.25, prob=0.8), lambda image: image.std()),
    ({"brightness_prob": 0.8, "brightness": (-0.2, 0.2)}, {"brightness": (-0.12, 0.12)},
     RandShiftIntensityd("image", offsets=0.2, prob=0.8), lambda image: image.mean()),
    ({"gamma_prob": 0.8, "gamma": (0.7, 1.5), "gamma_inverted": 0}, {"gamma_inverted": 1},
     RandAdjustContrastd("image", gamma=(0.7, 1.5), prob=0.8, retain_stats=True), lambda image: image.median()),
    ({"gamma_prob": 0.8, "gamma": (0.7, 1.5), "gamma_inverted": 1}, {"gamma_inverted": 0},
     RandAdjustContrastd("image", gamma=(0.7, 1.5), prob=0.8, retain_stats=True, invert_image=True),
     lambda image: image.median()),
    ({"noise_prob": 0.8, "noise_std": (0, 0.3)}, {"noise_std": (0, 0.2)},
     RandGaussianNoised("image", std=0.3, prob=0.8), lambda image: (image - z_scored(image.ndim - 1)).std()),
], ids=["contrast", "brightness", "gamma", "gamma of the negative", "noise"])
def test_intensities_are_distributed_as_monais(
    dims: int, ours: dict[str, Any], narrower: dict[str, Any], theirs: Any, statistic: Callable[[torch.Tensor], float]
) -> None:
    image = z_scored(dims)
    their_values = [float(statistic(one)) for one in draws_of_monai(image, theirs)]
    for settings, is_same in ((ours, True), ({**ours, **narrower}, False)):
        found = [float(statistic(one)) for one in draws_of_ours(image, {}, settings)]
        assert (ks_2samp(found, their_values).pvalue > 0.05) == is_same


def z_scored(dims: int) -> torch.Tensor:
    image = torch.randn((1, *[10] * dims), generator=torch.Generator().manual_seed(3))
    return (image - image.mean()) / image.std()
