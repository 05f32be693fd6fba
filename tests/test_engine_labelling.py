"""From scores to labels: what interpolating every probability everywhere gives, without doing so."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd
from scipy import ndimage
from test_imaging_resampling import ORDERS_AND_FLIPS, affine_of

from pipeline.engine import labelling
from pipeline.engine.labelling import class_probabilities, label_scan
from pipeline.imaging.resampling import Regrid, regrid_of

SHAPE = (23, 19, 15)


def smooth_scores(regrid: Regrid, classes: int, *, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(classes, *regrid.shape))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 2, 2, 2)).astype(np.float32) * 20)


def by_monai(scores: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    """Returns the class probabilities on the scan's grid by MONAI's inverse transforms."""
    there = Compose([Orientationd("image", "RAS", labels=None),
                     Spacingd("image", (1.5, 1.5, 1.5), mode="bilinear", dtype=torch.float64)])
    image = there({"image": MetaTensor(torch.zeros(1, *SHAPE), affine=torch.from_numpy(affine))})["image"]
    back = Invertd("pred", there, orig_keys="image", nearest_interp=False)
    return back({"image": image, "pred": MetaTensor(scores.softmax(0), affine=image.affine)})["pred"].as_tensor()


@pytest.mark.parametrize(("order", "flips"), ORDERS_AND_FLIPS)
def test_labels_are_those_of_the_stock_path_in_every_axis_order(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    monkeypatch.setattr(labelling, "BLOCK_VOXELS", 500)  # several blocks
    affine = affine_of(order, flips)
    regrid = regrid_of(SHAPE, affine, spacing_mm=(1.5, 1.5, 1.5))
    scores = smooth_scores(regrid, 4)
    expected = by_monai(scores, affine)
    probabilities = np.stack(list(class_probabilities(scores, regrid)))
    assert probabilities == pytest.approx(expected.numpy(), abs=1e-4)
    found = label_scan(scores, regrid, values=[2, 3, 7])
    assert len(np.unique(found.labelmap)) == 4
    assert np.array_equal(found.labelmap, np.array([0, 2, 3, 7])[expected.argmax(0)])
    outside = np.ones(SHAPE, dtype=bool)
    outside[found.box] = False
    assert not found.labelmap[outside].any()


def test_an_empty_result_has_an_empty_box() -> None:
    regrid = regrid_of(SHAPE, np.eye(4), spacing_mm=(2, 2, 2))
    scores = torch.zeros(3, *regrid.shape)
    scores[0] = 1
    found = label_scan(scores, regrid, values=[1, 2])
    assert found.labelmap.shape == SHAPE
    assert not found.labelmap.any()
    assert found.labelmap[found.box].size == 0


def test_ties_stay_with_the_smaller_class() -> None:
    regrid = regrid_of((4, 4, 4), np.eye(4), spacing_mm=(1, 1, 1))
    scores = torch.zeros(3, 4, 4, 4)
    scores[1:, 2] = 5  # both labels alike in one plane, and the background elsewhere
    found = label_scan(scores, regrid, values=[1, 2])
    assert np.unique(found.labelmap[2]).tolist() == [1]
    assert not found.labelmap[[0, 1, 3]].any()


def test_only_the_box_is_touched_and_one_lone_voxel_survives_a_finer_scan() -> None:
    regrid = regrid_of((30, 30, 30), np.eye(4), spacing_mm=(2, 2, 2))
    scores = torch.full((2, *regrid.shape), -9.0)
    scores[0] = 0
    scores[1, 5, 6, 7] = 9
    found = label_scan(scores, regrid, values=[1])
    # Its centre is scan voxel 10, 12, 14; linear interpolation wins over one half on it and none of its neighbours.
    assert np.argwhere(found.labelmap).tolist() == [[10, 12, 14]]
    assert [(part.start, part.stop) for part in found.box] == [(9, 12), (11, 14), (13, 16)]


def test_large_label_values_take_more_bits() -> None:
    regrid = regrid_of((3, 3, 3), np.eye(4), spacing_mm=(1, 1, 1))
    scores = torch.zeros(2, 3, 3, 3)
    scores[1] = 1
    found = label_scan(scores, regrid, values=[300])
    assert found.labelmap.dtype == np.uint16
    assert (found.labelmap == 300).all()
