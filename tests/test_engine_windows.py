"""Where windows lie: they cover, they overlap enough, and they stretch where that saves work."""

import itertools

import numpy as np
import pytest
import torch
from monai.data.utils import dense_patch_slices

from pipeline.engine.windows import body_box, divide_by_weights, fitted_window, place_windows, window_starts


@pytest.mark.parametrize(("shape", "window", "overlap"), [
    ((50, 61, 40), (32, 32, 32), 0.5), ((32, 33, 200), (32, 32, 96), 0.25), ((7, 9, 11), (4, 4, 4), 0.0),
])
def test_windows_are_those_of_monai(shape: tuple[int, ...], window: tuple[int, ...], overlap: float) -> None:
    interval = [int(edge * (1 - overlap)) if edge != size else edge for edge, size in zip(window, shape, strict=True)]
    expected = [tuple(part.start for part in place) for place in dense_patch_slices(shape, window, interval)]
    assert place_windows(shape, window, overlap=overlap, evenly=False) == expected


@pytest.mark.parametrize("evenly", [True, False])
@pytest.mark.parametrize(("size", "window", "overlap"), itertools.product((8, 9, 20, 100), (8,), (0.0, 0.25, 0.5, 0.9)))
def test_windows_cover_the_axis_and_overlap_enough(size: int, window: int, overlap: float, evenly: bool) -> None:
    starts = window_starts(size, window, overlap=overlap, evenly=evenly)
    assert starts[0] == 0
    assert starts[-1] + window == size
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, window * (1 - overlap))).all()


@pytest.mark.parametrize("evenly", [True, False])
@pytest.mark.parametrize(("shape", "window"), [
    ((37, 20, 9), (8, 8, 4)), ((20, 8, 5), (8, 8, 1)), ((8, 4, 8), (8, 4, 8)),
])
def test_weights_are_divided_out(shape: tuple[int, int, int], window: tuple[int, int, int], evenly: bool) -> None:
    weights, starts = torch.rand(window) + 0.1, place_windows(shape, window, overlap=0.5, evenly=evenly)
    values = torch.rand(2, *shape)
    total = torch.zeros(2, *shape)
    for start in starts:
        place = tuple(slice(first, first + edge) for first, edge in zip(start, window, strict=True))
        total[(slice(None), *place)] += values[(slice(None), *place)] * weights
    divide_by_weights(total, starts, weights)
    torch.testing.assert_close(total, values)


@pytest.mark.parametrize(("shape", "fitted"), [
    ((40, 56, 40), (40, 56, 40)),
    ((38, 50, 20), (40, 56, 24)),  # smaller: less padding, in steps of 8
    ((43, 59, 47), (48, 64, 48)),  # a little longer: one window
    ((400, 59, 47), (40, 56, 40)),  # far longer along one axis: the network never saw longer windows of such scans
    ((400, 59, 20), (40, 56, 24)),
    ((8, 5, 1), (40, 56, 40)),  # so small that the poolings would leave one voxel: as planned
    ((9, 5, 1), (16, 8, 8)),
    ((60, 84, 60), (40, 56, 40)),  # in all a stretch of more than three times: as planned
])
def test_a_window_is_fitted_where_that_saves_work(shape: tuple[int, ...], fitted: tuple[int, ...]) -> None:
    assert fitted_window(shape, (40, 56, 40)) == fitted


def test_the_body_is_found_in_noise_with_a_margin() -> None:
    volume = torch.from_numpy(np.random.default_rng(0).normal(0, 10, (1, 64, 80, 60)).astype(np.float32))
    volume[0, 20:40, 28:60, 16:40] += 1000
    assert body_box(volume) == (slice(12, 48), slice(20, 68), slice(8, 48))


@pytest.mark.parametrize(("axes", "first"), [((0, 1, 2), 48), ((2, 0, 1), 16)])
def test_the_body_may_end_in_a_cube_that_is_cut_off(axes: tuple[int, int, int], first: int) -> None:
    volume = torch.zeros(61, 40, 30).permute(axes)[None]
    volume[0, -13:, 20:32, 8:20] = 1000
    # Cubes of 4 voxels start at multiples of 4; the last along 61 and along 30 has fewer. The margin is 8.
    assert body_box(volume) == (slice(first - 8, volume.shape[1]), slice(12, 40), slice(0, 28))


def test_an_even_volume_is_all_body() -> None:
    assert body_box(torch.full((1, 9, 8, 7), 3.0)) == (slice(0, 9), slice(0, 8), slice(0, 7))
