"""A pair of labels that a mirror exchanges: a network that tells sides apart is only right if they are exchanged back.

The network looks along x: what gets brighter there is the left face of a box, what gets darker its right one.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_bundle import segmenter_of, write_bundle
from tiny_msd import write_scan

from pipeline.engine.augmentation import generator_for
from pipeline.engine.augmentation_spatial import SpatialAugmentation
from pipeline.engine.inferers import WindowInferer
from pipeline.engine.mirroring import Mirrors
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file

LABELS = {"left_face": 1, "right_face": 2}
PAIR = [[1, 2]]
BOX = slice(5, 11)


def face_weights(dims: int) -> dict[str, torch.Tensor]:
    """Scores of 60 times the slope along x for the left face, the same down for the right, and 30 for neither."""
    slope = torch.tensor([-60.0, 60.0, 0.0]).reshape(1, 1, 3, *[1] * (dims - 1))
    weight = torch.cat([torch.zeros_like(slope), slope, slope.flip(2)])
    return {"weight": weight, "bias": torch.tensor([30.0, 0.0, 0.0])}


def face_network(dims: int) -> torch.nn.Module:
    kind = torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d
    network = kind(1, 3, (3, *[1] * (dims - 1)), padding=(1, *[0] * (dims - 1)))
    network.load_state_dict(face_weights(dims))
    return network


def box(shape: tuple[int, ...] = (16, 14, 12)) -> torch.Tensor:
    volume = torch.zeros(shape)
    volume[(BOX,) * len(shape)] = 1
    return volume


def faces(volume: torch.Tensor) -> torch.Tensor:
    """Returns the true labels of the box's first and last voxels along x."""
    label = torch.zeros_like(volume)
    rest = (BOX,) * (volume.ndim - 1)
    label[(BOX.start, *rest)], label[(BOX.stop - 1, *rest)] = 1, 2
    return label


@pytest.mark.parametrize(("patch", "slice_axis"), [((16, 16, 16), None), ((16, 16, 1), 2), ((16, 1, 16), 1)])
@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2)])
def test_flips_agree_where_the_sides_are_exchanged_and_contradict_each_other_where_not(
    patch: tuple[int, int, int], slice_axis: int | None, axes: tuple[int, ...]
) -> None:
    axes = tuple(axis for axis in axes if axis != slice_axis)
    network, volume = face_network(3 if slice_axis is None else 2), box()[None, None]
    once = WindowInferer(patch, slice_axis=slice_axis)(volume, network)
    assert torch.equal(once.argmax(1)[0].float(), faces(box()))
    for swaps, is_right in ((PAIR, True), ([], False)):
        mirrors = Mirrors(axes, swaps=swaps, labels=LABELS)
        found = WindowInferer(patch, slice_axis=slice_axis, mirrors=mirrors)(volume, network)
        assert torch.equal(found.argmax(1)[0].float(), faces(box())) is is_right
        left = found.softmax(1)[0, :, BOX.start, BOX.start, BOX.start]
        wanted = [0.0, 1.0, 0.0] if is_right else [0.0, 0.5, 0.5]
        torch.testing.assert_close(left, torch.tensor(wanted), rtol=0, atol=1e-5)


def test_mirroring_another_axis_exchanges_nothing() -> None:
    mirrors = Mirrors((1,), swaps=PAIR, labels=LABELS)
    found = WindowInferer((16, 16, 16), slice_axis=None, mirrors=mirrors)(box()[None, None], face_network(3))
    assert torch.equal(found.argmax(1)[0].float(), faces(box()))


def test_the_average_is_of_probabilities_over_all_flips() -> None:
    torch.manual_seed(0)
    network, windows = torch.nn.Conv3d(1, 3, 3, padding=1), torch.rand(2, 1, 6, 5, 4)
    with torch.inference_mode():
        found = Mirrors((0, 2), swaps=PAIR, labels=LABELS).average(windows, network).softmax(1)
        flips = [network(windows.flip(dims)).softmax(1).flip(dims) for dims in ([2], [4], [2, 4])]
        wanted = (network(windows).softmax(1) + flips[1] + (flips[0] + flips[2])[:, [0, 2, 1]]) / 4
    torch.testing.assert_close(found, wanted)


def test_a_class_without_any_chance_has_a_finite_score() -> None:
    scores = torch.tensor([0.0, 900.0]).reshape(1, 2, 1, 1, 1)
    found = Mirrors((1,), swaps=[], labels={"one": 1}).average(torch.zeros(1, 1, 1, 1, 1), lambda _: scores)
    assert bool(torch.isfinite(found).all())
    assert int(found.argmax()) == 1


@pytest.mark.parametrize(("size", "slice_axis"), [((14, 14, 14), None), ((14, 14, 1), 2)])
@pytest.mark.parametrize("shift", [0, 1])  # 0 is cut, 1 is sampled
def test_training_patches_that_are_mirrored_have_their_sides_exchanged(
    size: tuple[int, int, int], slice_axis: int | None, shift: int
) -> None:
    dims = 3 if slice_axis is None else 2
    volume = box((16, 16, 16)[:dims])
    spatial = SpatialAugmentation(patch_size=size, slice_axis=slice_axis, prob=0, elastic_prob=0, mirror_axes=(0, 1),
                                  exchanged=(0, 2, 1))
    count = 12
    image, label = (one[None, None].repeat(count, 1, *[1] * dims) for one in (volume, faces(volume).to(torch.uint8)))
    generators = [generator_for(0, position) for position in range(count)]
    maps = replace(spatial.draw(generators), shift=np.full((count, dims), float(shift)))
    assert all(maps.moved()) is bool(shift)
    assert 2 < int(maps.mirrored[:, 0].sum()) < count - 2
    before = label.clone()
    image_after, label_after = spatial.apply(image, label, maps)
    assert torch.equal(label, before)
    # What the network sees in the patch is what it is taught.
    with torch.inference_mode():
        seen = face_network(dims)(image_after).argmax(1, keepdim=True)
    assert torch.equal(label_after.long(), seen)

    spatial.exchanged = ()
    wrong = [not torch.equal(one.long(), other)
             for one, other in zip(spatial.apply(image, label, maps)[1], seen, strict=True)]
    assert wrong == maps.mirrored[:, 0].tolist()


def face_bundle(root: Path, **overrides: Any) -> Path:
    """Writes a bundle with the network that tells left from right."""
    write_bundle(root, labels=LABELS, network_def={
        "_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": [3, 1, 1],
        "padding": [1, 0, 0]}, **overrides)
    weights = root / "models/model.pt"
    torch.save(face_weights(3), weights)
    weights.with_name("model.pt.sha256").write_text(f"{sha256_of_file(weights)}  model.pt\n")
    return root


@pytest.mark.parametrize(("flip", "swaps", "is_right"), [(1, PAIR, True), (-1, PAIR, True), (1, [], False)])
def test_a_bundle_mirrors_at_the_patients_left_whatever_the_files_axes(
    flip: int, swaps: list[list[int]], is_right: bool, tmp_path: Path
) -> None:
    # -1: the file's first axis runs to the patient's left, so that its first voxels are the right face.
    affine = np.diag([float(flip), 1.0, 1.0, 1.0])
    scan = write_scan(tmp_path / "scan.nii.gz", box().flip(0).numpy() if flip < 0 else box().numpy(), affine)
    truth = faces(box()).flip(0) if flip < 0 else faces(box())
    root = face_bundle(tmp_path / "bundle", mirror_axes=[0, 1], mirror_swaps=swaps)
    (result,) = segmenter_of(root, scan, tmp_path / "out", mirroring=True).segment_all()
    assert result.folder is not None
    found = np.asarray(nib.load(result.folder / "segmentation.nii.gz").dataobj)
    assert np.array_equal(found, truth.numpy()) is is_right
    assert json.loads((result.folder / "report.json").read_text())["settings"]["mirroring"] is True


def test_a_scan_that_does_not_say_where_left_is_is_not_mirrored(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(box().numpy(), None), tmp_path / "scan.nii.gz")
    root = face_bundle(tmp_path / "bundle", mirror_axes=[0], mirror_swaps=[])  # mirrored, it would be wrong
    (result,) = segmenter_of(root, tmp_path / "scan.nii.gz", tmp_path / "out", mirroring=True).segment_all()
    assert "not mirrored: the file does not say which side is left" in result.warnings
    assert result.folder is not None
    found = np.asarray(nib.load(result.folder / "segmentation.nii.gz").dataobj)
    assert int((found == 1).sum()) == int((found == 2).sum()) == 36


def test_a_model_that_was_not_trained_with_mirroring_refuses_it(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz", box().numpy())
    segmenter = segmenter_of(face_bundle(tmp_path / "bundle"), scan, tmp_path / "out", mirroring=True)
    with pytest.raises(InputError, match=r"^--mirroring: a model that was trained without mirroring"):
        segmenter.segment_all()
