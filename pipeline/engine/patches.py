"""Training patches: where they are cut, and what augmentation makes of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.engine.cache import CachedCase


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Patches of the cached training cases; patch number i is a pure function of the seed and i.

    So the order of workers, an interruption or a resumption cannot change what a network sees. A share of
    `foreground_fraction` of the patches is centred on a voxel of a label: first one of the labels that the case has,
    each with the same probability, then one of its voxels. A lesion of a few voxels is so seen as often as an organ.

    Args:
        cases: the training cases; their arrays are held in memory.
        patch_size: voxels ``(x, y, z)``, 1 along `slice_axis`.
        slice_axis: axis dropped from the patches for a 2D network, or None.
        length: number of patches of the whole training.
        foreground_fraction: between 0 and 1.
        seed: of positions and augmentation.
        transforms: MONAI dictionary transforms on `image` and `label`, ``(1, x, y[, z])`` float32 and uint8.
    """

    def __init__(
        self, cases: Sequence[CachedCase], *, patch_size: Sequence[int], slice_axis: int | None, length: int,
        foreground_fraction: float, seed: int, transforms: Sequence[Any],
    ) -> None:
        self.images = [case.image for case in cases]
        self.labels = [case.label for case in cases]
        self.voxels_by_class = [_voxels_by_class(label) for label in self.labels]
        self.patch_size = tuple(patch_size)
        self.slice_axis = slice_axis
        self.length = length
        self.foreground_fraction = foreground_fraction
        self.seed = seed
        self.augment = Compose(transforms)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((self.seed, position))
        case = int(rng.integers(len(self.images)))
        start = self._start(case, rng)
        patch = {
            # Padded as the sliding windows of inference pad: beyond the scan, its border goes on.
            "image": self._cut(self.images[case], start, {"mode": "edge"}),
            "label": self._cut(self.labels[case], start, {"mode": "constant"}),
        }
        self.augment.set_random_state(seed=int(rng.integers(2**31)))
        return self.augment(patch)  # type: ignore[no-any-return]

    def _start(self, case: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns the patch's lowest corner; it may lie outside a scan that is smaller than the patch."""
        shape, size = np.array(self.images[case].shape), np.array(self.patch_size)
        slack = shape - size
        classes = self.voxels_by_class[case]
        if classes and rng.random() < self.foreground_fraction:
            voxels = classes[int(rng.integers(len(classes)))]
            flat = int(voxels[int(rng.integers(len(voxels)))])
            centre = np.array(np.unravel_index(flat, self.images[case].shape))
            # Anywhere in the middle half of the patch, so that position alone does not give a label away.
            start = centre - size // 2 + rng.integers(-(size // 4), size // 4 + 1)
        else:
            start = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)
        return np.asarray(np.clip(start, np.minimum(slack, 0), np.maximum(slack, 0)))

    def _cut(self, array: NDArray[Any], start: NDArray[np.int64], padding: dict[str, str]) -> torch.Tensor:
        inside_low = np.maximum(start, 0)
        inside_high = np.minimum(start + self.patch_size, array.shape)
        part = array[tuple(slice(low, high) for low, high in zip(inside_low, inside_high, strict=True))]
        if part.shape != self.patch_size:
            before = inside_low - start
            after = self.patch_size - before - part.shape
            part = np.pad(part, list(zip(before, after, strict=True)), **padding)  # type: ignore[call-overload]
        if self.slice_axis is not None:
            part = part.squeeze(self.slice_axis)
        return torch.from_numpy(np.ascontiguousarray(part[None]))


def _voxels_by_class(label: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
    """Returns, for each class present but background, the flat indices of its voxels."""
    flat = label.ravel()
    return [np.flatnonzero(flat == value).astype(np.int32) for value in np.unique(flat) if value > 0]
