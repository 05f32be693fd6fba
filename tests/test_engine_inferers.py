"""Sliding windows: MONAI's result in `exact`, the volume's own axes for 2D, and no work on air."""

import pytest
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet

from pipeline.engine.inferers import WindowInferer
from pipeline.engine.windows import window_weights
from pipeline.records.errors import InputError


class Doubler(torch.nn.Module):
    """Two classes: the image and twice the image; exact whatever windows it is shown in. Counts its windows."""

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        self.dims = dims
        self.windows = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.ndim == self.dims + 2
        self.windows += len(image)
        return torch.cat([image, 2 * image], dim=1)


def unet(dims: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return UNet(dims, 1, 3, channels=(4, 8), strides=(2,), norm="instance").eval()


@pytest.mark.parametrize("speed", ["exact", "fast", "fastest"])
@pytest.mark.parametrize(
    ("patch_size", "slice_axis"), [((8, 8, 8), None), ((8, 8, 1), 2), ((8, 1, 8), 1), ((1, 8, 8), 0)]
)
def test_the_volume_comes_back_in_its_own_axes(
    patch_size: tuple[int, int, int], slice_axis: int | None, speed: str
) -> None:
    volume = torch.randint(100, (1, 1, 19, 11, 6)).float()  # whole numbers: bfloat16 holds them
    network = Doubler(3 if slice_axis is None else 2)
    logits = WindowInferer(patch_size, slice_axis=slice_axis, speed=speed)(volume, network)
    assert logits.shape == (1, 2, 19, 11, 6)
    torch.testing.assert_close(logits[:, :1], volume)
    torch.testing.assert_close(logits[:, 1:], 2 * volume)


@pytest.mark.parametrize("shape", [(30, 23, 17), (9, 30, 16), (5, 6, 7)])
def test_exact_is_what_monai_gives(shape: tuple[int, ...]) -> None:
    volume = torch.rand(1, 1, *shape)
    with torch.inference_mode():
        theirs = sliding_window_inference(volume, (16, 16, 16), 4, unet(3), 0.5, mode="gaussian",
                                          padding_mode="replicate")
        ours = WindowInferer((16, 16, 16), slice_axis=None)(volume, unet(3))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_gradients_flow_although_an_inference_had_windows_of_that_size_first() -> None:
    volume, network, inferer = torch.rand(1, 1, 9, 10, 8), unet(3), WindowInferer((8, 8, 8), slice_axis=None)
    window_weights.cache_clear()
    with torch.inference_mode():
        first = inferer(volume, network)
    second = inferer(volume, network)
    torch.testing.assert_close(second, first)
    second.sum().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters() if parameter.ndim > 1)


def test_slices_are_what_monai_gives_for_each() -> None:
    volume = torch.rand(1, 1, 30, 23, 5)
    with torch.inference_mode():
        theirs = [sliding_window_inference(volume[..., k], (16, 16), 4, unet(2), 0.5, mode="gaussian",
                                           padding_mode="replicate") for k in range(5)]
        ours = WindowInferer((16, 16, 1), slice_axis=2)(volume, unet(2))
    torch.testing.assert_close(ours, torch.stack(theirs, dim=-1), rtol=0, atol=1e-5)


def test_each_volume_of_a_batch_has_its_own_result() -> None:
    volumes = torch.rand(2, 1, 10, 10, 10)
    logits = WindowInferer((8, 8, 8), slice_axis=None)(volumes, Doubler())
    torch.testing.assert_close(logits[:, :1], volumes)


def test_windows_of_one_intensity_are_computed_once() -> None:
    volume = torch.full((1, 1, 8, 8, 64), -5.0)
    volume[..., :8] = torch.rand(8)
    network = Doubler()
    logits = WindowInferer((8, 8, 8), slice_axis=None, overlap=0.5)(volume, network)
    torch.testing.assert_close(logits[:, :1], volume)
    # 15 windows: the first two see the random voxels, one stands for the other thirteen.
    assert network.windows == 3


def test_a_window_with_one_other_voxel_is_not_even() -> None:
    volume = torch.zeros(1, 1, 8, 8, 8)
    volume[0, 0, 3, 5, 2] = 7
    logits = WindowInferer((8, 8, 8), slice_axis=None)(volume, Doubler())
    torch.testing.assert_close(logits[:, :1], volume)


@pytest.mark.parametrize("planned", [(16, 16, 16), (16, 64, 16)], ids=["windows inside", "windows beyond the body"])
@pytest.mark.parametrize(("first", "looked_at"), [(30, slice(20, 68)), (0, slice(0, 40))], ids=["middle", "border"])
def test_fast_leaves_air_out_and_is_sure_of_it(planned: tuple[int, ...], first: int, looked_at: slice) -> None:
    volume = torch.rand(1, 1, 96, 96, 96)
    volume[..., first : first + 30, 30:60, 30:60] += 100
    exact, fast = Doubler(), Doubler()
    WindowInferer(planned, slice_axis=None)(volume, exact)
    logits = WindowInferer(planned, slice_axis=None, speed="fast")(volume, fast)
    assert fast.windows < exact.windows / 3
    # Whole cubes of 4 voxels and a margin of 8; wherever it looks, the Doubler's second class wins.
    is_air = torch.ones(96, 96, 96, dtype=torch.bool)
    is_air[looked_at, 20:68, 20:68] = False
    assert torch.equal(logits[0, 0] > logits[0, 1], is_air)
    assert (logits[0].softmax(0)[0][is_air] > 0.999).all()
    inside = (0, slice(first, first + 30), slice(30, 60), slice(30, 60))
    torch.testing.assert_close(logits[0, 1][inside[1:]], 2 * volume[0][inside], rtol=0.01, atol=0.01)


def test_fast_takes_one_window_for_a_scan_a_little_larger() -> None:
    network = Doubler()
    WindowInferer((40, 56, 40), slice_axis=None, speed="fast")(torch.rand(1, 1, 43, 59, 47), network)
    assert network.windows == 1


def test_an_unknown_speed_is_refused() -> None:
    with pytest.raises(InputError, match="one of exact, fast, fastest"):
        WindowInferer((8, 8, 8), slice_axis=None, speed="faster")
