"""Training patches: where they are cut, and what MONAI's transforms make of them where those are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.engine.cache import CachedCase, with_channel


class PatchDataset(Dataset[dict[str, Any]]):
    """Patches of the cached training cases; patch number i is a pure function of the seed and i.

    So the order of workers, an interruption or a resumption cannot change what a network sees. A share of
    `foreground_fraction` of the patches is centred on a voxel of a label: first one of the labels that the case has,
    each with the same probability, then one of its voxels. A lesion of a few voxels is so seen as often as an organ.

    Augmentation is one of two. Without `transforms`, patches are cut at `source_size`, and `BatchAugmentation` makes
    batches of them on the device. With `transforms`, they are cut at `patch_size` and MONAI's own transforms are
    applied to each; then `BatchAugmentation` must be off. One list in train.yaml decides both::

        transforms: []  # MONAI's own, such as RandAffined, instead of `augmentation`
        augmentation: {_target_: ...BatchAugmentation, is_on: "$not @transforms", ...}
        dataset: {_target_: ...PatchDataset, source_size: $@augmentation.source_size, transforms: "@transforms", ...}

    Each patch is a dictionary: `image` ``(c, x, y[, z])`` float32 and `label` ``(1, x, y[, z])`` uint8 class indices,
    `position`, its number, and `case`, the id of the case it is cut from.

    Args:
        cases: the training cases; their arrays are held in memory.
        patch_size: voxels ``(x, y, z)``, 1 along `slice_axis`.
        slice_axis: axis dropped from the patches for a 2D network, or None.
        length: number of patches of the whole training.
        foreground_fraction: between 0 and 1.
        seed: of positions and augmentation.
        transforms: MONAI dictionary transforms on `image` and `label`.
        source_size: voxels to cut about the patch's centre, as many more than `patch_size` on either side; None: none.
    """

    def __init__(
        self, cases: Sequence[CachedCase], *, patch_size: Sequence[int], slice_axis: int | None, length: int,
        foreground_fraction: float, seed: int, transforms: Sequence[Any] = (),
        source_size: Sequence[int] | None = None,
    ) -> None:
        self.names = [case.case_id for case in cases]
        self.images = [with_channel(case.image) for case in cases]
        self.labels = [with_channel(case.label) for case in cases]
        self.voxels_by_class = [_voxels_by_class(label) for label in self.labels]
        self.patch_size = np.array(patch_size)
        self.cut_size = self.patch_size if transforms or source_size is None else np.array(source_size)
        self.slice_axis = slice_axis
        self.length = length
        self.foreground_fraction = foreground_fraction
        self.seed = seed
        self.augment = Compose(transforms) if transforms else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, position))
        case = int(rng.integers(len(self.images)))
        low = self._start(case, rng) - (self.cut_size - self.patch_size) // 2
        patch = {
            # Padded as the sliding windows of inference pad: beyond the scan its border goes on. So does its label: a
            # structure that the scan cuts off is no background there.
            "image": self._cut(self.images[case], low),
            "label": self._cut(self.labels[case], low),
        }
        if self.augment is not None:
            self.augment.set_random_state(seed=int(rng.integers(2**31)))
            patch = self.augment(patch)
        return {**patch, "position": int(position), "case": self.names[case]}

    def _start(self, case: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns the patch's lowest corner; it may lie outside a scan that is smaller than the patch."""
        shape, size = np.array(self.labels[case].shape[1:]), self.patch_size
        slack = shape - size
        classes = self.voxels_by_class[case]
        if classes and rng.random() < self.foreground_fraction:
            voxels = classes[int(rng.integers(len(classes)))]
            flat = int(voxels[int(rng.integers(len(voxels)))])
            centre = np.array(np.unravel_index(flat, shape))
            # Anywhere in the middle half of the patch, so that position alone does not give a label away.
            start = centre - size // 2 + rng.integers(-(size // 4), size // 4 + 1)
        else:
            start = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)
        return np.asarray(np.clip(start, np.minimum(slack, 0), np.maximum(slack, 0)))

    def _cut(self, array: NDArray[Any], low: NDArray[np.int64]) -> torch.Tensor:
        """Returns the voxels of `array` ``(c, x, y, z)`` from the corner `low` on; its border goes on beyond it."""
        shape = np.array(array.shape[1:])
        inside_low, inside_high = np.maximum(low, 0), np.minimum(low + self.cut_size, shape)
        part = array[(slice(None), *map(slice, inside_low, inside_high))]
        before, after = inside_low - low, low + self.cut_size - inside_high
        if before.any() or after.any():
            part = np.pad(part, [(0, 0), *zip(before, after, strict=True)], mode="edge")
        else:
            part = part.copy()  # what is done to the patch must not be done to the case
        return torch.from_numpy(part if self.slice_axis is None else part.squeeze(1 + self.slice_axis))


def _voxels_by_class(label: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
    """Returns, for each class present but background, the flat indices of its voxels."""
    flat = label.ravel()
    return [np.flatnonzero(flat == value).astype(np.int32) for value in np.unique(flat) if value > 0]
