"""Whether probabilities mean what they say: how sure a model was of its labels against how often it was right."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 20
# Around truth and prediction; all of the background would drown what is in doubt, and is next to certain.
MARGIN_VOXELS = 10


def _zeros() -> NDArray[np.float64]:
    return np.zeros(BINS)


@dataclass
class Reliability:
    """Counts of voxels by how probable the model called the label that it gave them, in `BINS` equal steps from 0 to 1.

    Source: Guo et al. 2017, arXiv:1706.04599; for segmentation, in a box around what is sought: Mehrtash et al. 2020,
    doi:10.1109/TMI.2020.3006437.
    """

    voxels: NDArray[np.float64] = field(default_factory=_zeros)
    right: NDArray[np.float64] = field(default_factory=_zeros)
    confidence: NDArray[np.float64] = field(default_factory=_zeros)

    def add(self, confidence: NDArray[np.floating[Any]], is_right: NDArray[np.bool_]) -> None:
        """Counts voxels: the probability (0 to 1) of the label each got, and whether it is the true one."""
        sure = confidence.ravel().astype(np.float64)
        place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        self.voxels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place, weights=is_right.ravel(), minlength=BINS)
        self.confidence += np.bincount(place, weights=sure, minlength=BINS)

    @property
    def ece(self) -> float:
        """The expected calibration error: by how much confidence and share of right labels differ, 0 to 1; else NaN."""
        total = self.voxels.sum()
        return float(np.abs(self.right - self.confidence).sum() / total) if total else float("nan")

    @property
    def curve(self) -> list[tuple[float, float, int]]:
        """Mean confidence, share of right labels and voxels of each step that has voxels, rising."""
        return [(float(sure / count), float(right / count), int(count))
                for sure, right, count in zip(self.confidence, self.right, self.voxels, strict=True) if count]
