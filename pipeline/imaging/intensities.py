"""Whether a scan's intensities are in the units that a model was trained on."""

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Robust ends of a scan's intensities, and how many voxels are enough to know them.
ENDS_PERCENT = (0.5, 99.5)
SAMPLES = 200_000
# A scan may reach beyond the training scans by this share of their range.
TOLERATED_SHARE = 0.25


def sample_step(shape: Sequence[int], count: int) -> int:
    """Returns the step that takes about `count` voxels in memory order and keeps out of step with every axis.

    A step that shares a divisor with an axis would see some of its rows only, and of a row's length always the same
    column.
    """
    step = max(1, int(np.prod(shape, dtype=np.int64)) // count)
    while any(gcd(step, size) > 1 for size in shape):
        step += 1
    return step


def samples_of(array: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """Returns about `count` voxels spread over the array, which is not copied, however it is turned or flipped."""
    forwards = array[tuple(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)]
    return forwards.ravel(order="K")[:: sample_step(array.shape, count)]


def robust_range(array: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns the intensities that all but the lowest and highest 0.5% of the voxels lie between."""
    low, high = np.percentile(samples_of(array, SAMPLES).astype(np.float64), ENDS_PERCENT)
    return float(low), float(high)


def unusual_intensities(array: NDArray[np.floating[Any]], trained: Sequence[float]) -> Iterator[str]:
    """Yields a sentence where a scan lies far outside of the training scans' robust range, or has no contrast.

    Args:
        array: the scan's voxels.
        trained: lowest and highest end of the training scans' `robust_range`.
    """
    low, high = robust_range(array)
    slack = TOLERATED_SHARE * (trained[1] - trained[0])
    if low == high:
        yield "the scan is constant"
    elif low < trained[0] - slack or high > trained[1] + slack or high < trained[0] or low > trained[1]:
        yield (f"intensities from {low:.4g} to {high:.4g}: the training scans had {trained[0]:.4g} to "
               f"{trained[1]:.4g}; check the units")
