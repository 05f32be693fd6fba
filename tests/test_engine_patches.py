from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import RandAffined, RandScaleIntensityd
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pipeline.engine.augmentation import BatchAugmentation
from pipeline.engine.augmentation_intensity import IntensityAugmentation
from pipeline.engine.augmentation_spatial import SpatialAugmentation
from pipeline.engine.cache import CachedCase, CachedVolumes, count_folds, read_cached_cases, write_manifest
from pipeline.engine.patches import PatchDataset
from pipeline.records.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training cases and a validation case; each voxel of an image holds its own flat index."""
    cases = [CachedCase(name, split, tmp_path, "", "") for name, split in (("a", "train"), ("b", "train"))]
    cases.append(CachedCase("c", "validation", tmp_path, "", ""))
    for case in cases:
        image = np.arange(20 * 16 * 12, dtype=np.float32).reshape(20, 16, 12)
        label = np.zeros((20, 16, 12), dtype=np.uint8)
        label[2:12, 2:12, 2:10] = 1
        label[5, 6, 7] = 2  # one voxel: found by chance in less than one of 800
        np.save(tmp_path / f"{case.case_id}.image.npy", image)
        np.save(tmp_path / f"{case.case_id}.label.npy", label)
    write_manifest(tmp_path, cases)
    return tmp_path


def patches(folder: Path, **changes: Any) -> PatchDataset:
    arguments: dict[str, Any] = {
        "patch_size": (8, 8, 8), "slice_axis": None, "length": 400, "foreground_fraction": 0.5, "seed": 3,
        "transforms": [],
    }
    return PatchDataset(read_cached_cases(folder, "train"), **{**arguments, **changes})


def holds_label(patch: dict[str, Any], value: int) -> bool:
    return bool((patch["label"] == value).any())


def expected_label(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Works out the label from the flat indices that the image holds."""
    x, y, z = np.unravel_index(image.astype(int), (20, 16, 12))
    inside = (x >= 2) & (x < 12) & (y >= 2) & (y < 12) & (z >= 2) & (z < 10)
    return np.where((x == 5) & (y == 6) & (z == 7), 2, inside).astype(np.uint8)


def test_image_and_label_are_cut_at_the_same_place(folder: Path) -> None:
    for patch in (patches(folder)[i] for i in range(50)):
        assert patch["image"].shape == patch["label"].shape == (1, 8, 8, 8)
        np.testing.assert_array_equal(patch["label"][0], expected_label(patch["image"][0].numpy()))


def test_a_patch_is_a_function_of_seed_and_position_alone(folder: Path) -> None:
    noisy = [RandScaleIntensityd("image", factors=0.5, prob=1.0)]
    one, two = patches(folder, transforms=noisy), patches(folder, transforms=noisy)
    two[17], two[3]
    assert torch.equal(one[5]["image"], two[5]["image"])
    assert not torch.equal(one[5]["image"], one[6]["image"])
    assert not torch.equal(one[5]["image"], patches(folder, transforms=noisy, seed=4)[5]["image"])


def test_a_rare_label_is_in_every_other_foreground_patch(folder: Path) -> None:
    dataset = patches(folder, foreground_fraction=1.0)
    share = np.mean([holds_label(dataset[i], 2) for i in range(200)])
    # Chosen as the centre in half of them, and inside some of those that centre on the organ.
    assert share > 0.5


def test_without_foreground_sampling_the_rare_label_is_rarer(folder: Path) -> None:
    dataset = patches(folder, foreground_fraction=0.0)
    assert np.mean([holds_label(dataset[i], 2) for i in range(200)]) < 0.5


def test_a_patch_larger_than_the_scan_is_padded(folder: Path) -> None:
    patch = patches(folder, patch_size=(24, 16, 16))[0]
    assert patch["image"].shape == (1, 24, 16, 16)
    # All of the scan is in it once; beyond the scan its border goes on.
    assert int((patch["label"] == 1).sum()) == 10 * 10 * 8 - 1
    assert set(patch["image"].unique().tolist()) == set(range(20 * 16 * 12))
    assert int((patch["image"] == 0).sum()) > 1


def test_beyond_the_scan_a_structure_that_is_cut_off_goes_on() -> None:
    label = np.zeros((6, 6, 6), dtype=np.uint8)
    label[:2] = 1  # touches the scan's border at x = 0
    case = SimpleNamespace(case_id="a", image=label * 9.0, label=label)
    patch = PatchDataset([case], patch_size=(12, 6, 6), slice_axis=None, length=1, foreground_fraction=0, seed=0)[0]
    assert torch.equal(patch["label"] == 1, patch["image"] == 9)
    assert int((patch["label"] == 1).sum()) > 2 * 36


@pytest.mark.parametrize(("axis", "size", "shape"), [(2, (8, 8, 1), (1, 8, 8)), (0, (1, 8, 4), (1, 8, 4))])
def test_2d_patches_drop_the_slice_axis(
    folder: Path, axis: int, size: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    assert patches(folder, patch_size=size, slice_axis=axis)[0]["image"].shape == shape


def test_a_larger_cut_has_the_patch_in_its_middle(folder: Path) -> None:
    small, large = patches(folder), patches(folder, source_size=(14, 8, 18))
    for i in range(20):
        assert large[i]["image"].shape == large[i]["label"].shape == (1, 14, 8, 18)
        assert torch.equal(large[i]["image"][:, 3:11, :, 5:13], small[i]["image"])
        assert torch.equal(large[i]["label"][:, 3:11, :, 5:13], small[i]["label"])


def test_a_cut_beyond_the_scan_goes_on_as_its_border(folder: Path) -> None:
    # The scan itself in the middle, 2 voxels more before and behind it along x.
    patch = patches(folder, patch_size=(20, 16, 12), source_size=(24, 16, 12))[0]
    for outside, border in ((0, 2), (1, 2), (22, 21), (23, 21)):
        assert torch.equal(patch["image"][:, outside], patch["image"][:, border])
    assert patch["image"][0, 2, 0, 0] == 0
    assert not patch["label"][:, :2].any()


def test_a_patch_says_where_it_is_from(folder: Path) -> None:
    dataset = patches(folder)
    np.save(folder / "b.image.npy", np.full((20, 16, 12), -1, dtype=np.float32))
    told_apart = patches(folder)
    assert {dataset[i]["case"] for i in range(20)} == {"a", "b"}
    assert [dataset[i]["position"] for i in (0, 7)] == [0, 7]
    assert all((told_apart[i]["case"] == "b") == bool((told_apart[i]["image"] == -1).all()) for i in range(20))
    loaded = next(iter(DataLoader(dataset, batch_size=3)))
    assert loaded["position"].tolist() == [0, 1, 2]
    assert loaded["case"] == [dataset[i]["case"] for i in range(3)]


def test_with_monais_transforms_patches_have_their_final_size(folder: Path) -> None:
    plain = patches(folder)
    brighter = [RandScaleIntensityd("image", factors=0.5, prob=1.0)]
    dataset = patches(folder, source_size=(14, 14, 14), transforms=brighter)
    assert dataset[3]["image"].shape == (1, 8, 8, 8)
    assert dataset[3]["position"] == 3
    factor = dataset[3]["image"] / plain[3]["image"]
    assert factor.std() < 1e-6
    assert factor.mean() != 1


def test_channels_are_cut_alike(folder: Path) -> None:
    image = np.load(folder / "a.image.npy")
    for name in ("a", "b"):
        np.save(folder / f"{name}.image.npy", np.stack([image, image + 1]))
    patch = patches(folder, source_size=(12, 12, 12))[0]
    assert patch["image"].shape == (2, 12, 12, 12)
    assert patch["label"].shape == (1, 12, 12, 12)
    assert torch.equal(patch["image"][1], patch["image"][0] + 1)


def test_a_changed_patch_leaves_the_case_as_it_was(folder: Path) -> None:
    dataset = patches(folder, patch_size=(20, 16, 12))
    before = dataset[0]["image"].clone()
    dataset[0]["image"].zero_()
    assert torch.equal(dataset[0]["image"], before)


@pytest.mark.parametrize("is_monais", [False, True], ids=["batch augmentation", "MONAI's transforms"])
@pytest.mark.parametrize("slice_axis", [None, 2])
def test_a_trainer_takes_either_augmentation(folder: Path, is_monais: bool, slice_axis: int | None) -> None:
    transforms = [RandAffined(["image", "label"], prob=1, rotate_range=0.2, mode=["bilinear", "nearest"])]
    size = (8, 8, 8 if slice_axis is None else 1)
    augmentation = BatchAugmentation(
        seed=0, spatial=SpatialAugmentation(patch_size=size, slice_axis=slice_axis), intensity=IntensityAugmentation(),
        is_on=not is_monais,
    )
    dataset = patches(folder, patch_size=size, slice_axis=slice_axis, source_size=augmentation.source_size,
                      transforms=transforms if is_monais else [])
    network = UNet(3 if slice_axis is None else 2, 1, 3, channels=(4, 8), strides=(2,))
    seen: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, epoch_length=2, train_data_loader=DataLoader(dataset, batch_size=2),
        network=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.01), prepare_batch=augmentation,
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True),
    )
    trainer.run()
    assert seen == [(2, 1, 8, 8, 8) if slice_axis is None else (2, 1, 8, 8)] * 2
    assert trainer.state.output[0]["loss"] > 0


def test_volumes_are_whole_validation_cases(folder: Path) -> None:
    volumes = CachedVolumes(read_cached_cases(folder, "validation"))
    assert len(volumes) == 1
    assert volumes[0]["image"].shape == (1, 20, 16, 12)


def test_a_missing_cache_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cache.*pipeline preprocess"):
        read_cached_cases(tmp_path, "train")


def test_an_empty_split_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="no test case"):
        read_cached_cases(folder, "test")


def test_a_fold_validates_on_its_own_cases_and_trains_on_all_others(tmp_path: Path) -> None:
    cases = [CachedCase(name, "train", tmp_path, "", "", fold) for name, fold in zip("abcd", (0, 1, 0, 2), strict=True)]
    write_manifest(tmp_path, cases)
    assert count_folds(tmp_path) == 3

    def names(split: Literal["train", "validation"], fold: int) -> str:
        return "".join(case.case_id for case in read_cached_cases(tmp_path, split, fold))

    assert [(names("train", fold), names("validation", fold)) for fold in range(3)] == [
        ("bd", "ac"), ("acd", "b"), ("abc", "d")]


def test_a_cache_without_folds_does_not_mention_them(folder: Path) -> None:
    assert count_folds(folder) == 0
    assert "fold" not in (folder / "manifest.json").read_text()
