"""What happens to the intensities of augmented patches: formulas by hand and by SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pipeline.engine.augmentation import generator_for
from pipeline.engine.augmentation_intensity import IntensityAugmentation, bent
from pipeline.records.errors import InputError

DIMS = pytest.mark.parametrize("dims", [2, 3])
KINDS = ("blur", "low_resolution", "gamma", "contrast", "brightness", "noise")
PLAIN: dict[str, Any] = {f"{kind}_prob": 0.0 for kind in KINDS}


def generators(count: int) -> list[torch.Generator]:
    return [generator_for(0, position) for position in range(count)]


@DIMS
@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_blur_is_scipys(dims: int, sigma: float) -> None:
    image = torch.rand(1, 1, 11, 9, *[7] * (dims - 2), generator=torch.Generator().manual_seed(0))
    blur = IntensityAugmentation(**{**PLAIN, "blur_prob": 1}, blur_sigma_voxels=(sigma, sigma))
    expected = gaussian_filter(image[0, 0].numpy(), sigma, mode="nearest", truncate=3)
    np.testing.assert_allclose(blur(image, generators(1))[0, 0], expected, atol=1e-6)


@DIMS
def test_low_resolution_is_torchs(dims: int) -> None:
    image = torch.rand(1, 1, 11, 9, *[7] * (dims - 2), generator=torch.Generator().manual_seed(0))
    coarse = torch.nn.functional.interpolate(image, [7, 6, 4][:dims], mode="nearest-exact")
    mode = "bilinear" if dims == 2 else "trilinear"
    lower = IntensityAugmentation(**{**PLAIN, "low_resolution_prob": 1}, low_resolution=(1.6, 1.6))
    expected = torch.nn.functional.interpolate(coarse, image.shape[2:], mode=mode)
    torch.testing.assert_close(lower(image, generators(1)), expected, rtol=0, atol=1e-6)


@DIMS
def test_low_resolution_by_hand(dims: int) -> None:
    steps = torch.tensor([0.0, 0, 8, 8]).reshape(1, 1, 4, *[1] * (dims - 1)).expand(1, 1, *[4] * dims)
    coarse = IntensityAugmentation(**{**PLAIN, "low_resolution_prob": 1}, low_resolution=(2, 2))
    # 0 and 8 are left, at the centres of their pairs; a quarter and three quarters of the way lie between them.
    found = coarse(steps, generators(1)).flatten(3)
    assert found[0, 0, :, 0].tolist() == [0, 2, 6, 8]


def test_gamma_by_hand() -> None:
    # 0, 0.5, 1 squared are 0, 0.25, 1; then the mean is 0.5 and the deviation 0.5 again.
    raised = torch.tensor([0, 0.25, 1])
    expected = (raised - raised.mean()) / raised.std() * 0.5 + 0.5
    torch.testing.assert_close(bent(torch.tensor([0, 0.5, 1]), 2.0), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(bent(torch.full((5,), 3.0), 2.0), torch.full((5,), 3.0))


def test_each_channel_draws_its_own() -> None:
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).expand(4, 2, 64, 64)
    for kind in KINDS:
        after = IntensityAugmentation(**{**PLAIN, f"{kind}_prob": 1})(image, generators(4))
        assert len(torch.unique(after.flatten(0, 1), dim=0)) == 8, kind
        half = IntensityAugmentation(**{**PLAIN, f"{kind}_prob": 0.5})(image, generators(4))
        untouched = sum(bool(torch.equal(one, image[0, 0])) for one in half.flatten(0, 1))
        assert 1 <= untouched <= 7, kind


@pytest.mark.parametrize("wrong", [{"noise_prob": -0.1}, {"gamma": (1.5, 0.7)}, {"contrast": (1.0,)}])
def test_intensity_values_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        IntensityAugmentation(**wrong)
