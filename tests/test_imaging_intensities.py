"""Scans in other units than the training scans."""

import numpy as np
import pytest

from pipeline.imaging.intensities import robust_range, samples_of, unusual_intensities

TRAINED = (-1000.0, 1000.0)
CT = np.linspace(-1000, 1000, 1001)


def test_the_range_leaves_out_half_a_percent_at_each_end() -> None:
    assert robust_range(np.arange(1001.0)) == pytest.approx((5, 995))


@pytest.mark.parametrize(("array", "is_doubted"), [
    (CT, False),
    (CT * 0.5, False),  # less contrast, the same units
    (CT * 1.2, False),
    (CT + 1024, True),  # the rescale intercept was lost
    (CT * 10, True),
    (CT * 0, True),
    (CT * 0.01 + 1400, True),
])
def test_ct_in_other_units_is_doubted(array: np.ndarray, is_doubted: bool) -> None:
    assert bool(list(unusual_intensities(array, TRAINED))) == is_doubted


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_voxels_of_a_turned_view_are_sampled_where_they_lie(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    scan = np.arange(11 * 13 * 17).reshape(11, 13, 17)
    view = scan.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]
    samples = samples_of(view, 100)
    assert samples.tolist() == samples_of(scan, 100).tolist()
    assert np.shares_memory(samples, scan)
