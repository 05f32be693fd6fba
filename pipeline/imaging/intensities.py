"""Whether a scan's intensities are in the units that a model was trained on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Robust ends of a scan's intensities, and how many voxels are enough to know them.
ENDS_PERCENT = (0.5, 99.5)
SAMPLES = 200_000
# A scan may reach beyond the training scans by this share of their range.
TOLERATED_SHARE = 0.25


def robust_range(array: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns the intensities that all but the lowest and highest 0.5% of the voxels lie between."""
    values = array.ravel(order="K")[:: max(1, array.size // SAMPLES)]
    low, high = np.percentile(values, ENDS_PERCENT)
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
