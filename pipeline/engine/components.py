"""Connected components of label maps: all but the largest removed, and which components of a truth were found.

Voxels belong together where they share a face, an edge or a corner: 26 neighbours, 8 in a 2D image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.records.postprocessing import EVERYTHING

Mask = NDArray[np.bool_]
TOUCHING = np.ones((3, 3, 3))


def keep_largest(labelmap: NDArray[np.integer[Any]], names: Sequence[str], labels: Mapping[str, int]) -> None:
    """Makes background, in place, of all voxels of each named label but those of its largest component.

    Args:
        labelmap: ``(x, y, z)``.
        names: of labels; `EVERYTHING` stands for all of them as one.
        labels: names and values.
    """
    for name in names:
        _remove_strays(labelmap, labelmap > 0 if name == EVERYTHING else labelmap == labels[name])


def _remove_strays(labelmap: NDArray[np.integer[Any]], mask: Mask) -> None:
    if not mask.any():  # of a box without a voxel scipy finds no objects, but an error
        return
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    components, count = ndimage.label(mask[box], structure=TOUCHING)
    if count > 1:
        # Plane by plane: bincount takes a copy of eight bytes a voxel.
        sizes = sum(np.bincount(plane.ravel(), minlength=count + 1) for plane in components)
        largest = int(np.argmax(np.asarray(sizes)[1:])) + 1  # among equals the first
        labelmap[box][(components > 0) & (components != largest)] = 0


def found_components(truth: Mask, prediction: Mask) -> tuple[int, int]:
    """Returns how many components of the truth the prediction touches, and how many there are."""
    box = next(iter(ndimage.find_objects(truth.view(np.uint8))), None)
    if box is None:
        return 0, 0
    components, count = ndimage.label(truth[box], structure=TOUCHING)
    return int(np.count_nonzero(np.unique(components[prediction[box]]))), int(count)
