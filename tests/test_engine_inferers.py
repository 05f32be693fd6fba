import pytest
import torch

from pipeline.engine.inferers import WindowInferer


class Doubler(torch.nn.Module):
    """Two classes: the image and twice the image; exact whatever windows it is shown in."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.ndim == self.dims + 2
        return torch.cat([image, 2 * image], dim=1)


@pytest.mark.parametrize(
    ("patch_size", "slice_axis"), [((8, 8, 8), None), ((8, 8, 1), 2), ((8, 1, 8), 1), ((1, 8, 8), 0)]
)
def test_the_volume_comes_back_in_its_own_axes(patch_size: tuple[int, int, int], slice_axis: int | None) -> None:
    volume = torch.rand(1, 1, 19, 11, 6)
    network = Doubler(3 if slice_axis is None else 2)
    logits = WindowInferer(patch_size, slice_axis=slice_axis)(volume, network)
    assert logits.shape == (1, 2, 19, 11, 6)
    torch.testing.assert_close(logits[:, :1], volume)
    torch.testing.assert_close(logits[:, 1:], 2 * volume)


def test_a_scan_smaller_than_the_window_keeps_its_shape() -> None:
    assert WindowInferer((16, 16, 16), slice_axis=None)(torch.rand(1, 1, 5, 6, 7), Doubler(3)).shape == (1, 2, 5, 6, 7)
