"""Augmentation of whole batches on the device, in place of MONAI's transforms patch by patch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.engine.augmentation_intensity import IntensityAugmentation
from pipeline.engine.augmentation_spatial import SpatialAugmentation
from pipeline.records.errors import InputError

STREAM = 1  # keeps these numbers apart from those that PatchDataset draws for the same seed and position


class BatchAugmentation:
    """Makes training batches of what `PatchDataset` cuts: a SupervisedTrainer's `prepare_batch`.

    What happens to a patch is a pure function of the seed and the patch's position: it does not depend on what else is
    in its batch, nor on the process. Nothing waits for the device: all that is random is drawn on the CPU.

    Args:
        seed: of all random numbers.
        spatial: moves voxels and cuts the batch to the patch size.
        intensity: changes intensities, after that.
        is_on: if not, batches are only moved to the device: `PatchDataset` then applies MONAI's own transforms.
    """

    def __init__(
        self, *, seed: int, spatial: SpatialAugmentation, intensity: IntensityAugmentation, is_on: bool = True
    ) -> None:
        self.seed = seed
        self.spatial = spatial
        self.intensity = intensity
        self.is_on = is_on
        self.source_size = spatial.source_size if is_on else spatial.full_size

    def __call__(
        self, batchdata: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the image ``(n, c, *patch)`` and the label ``(n, 1, *patch)``, int64 as losses take it.

        Args:
            batchdata: `image` ``(n, c, *source)`` float32, `label` ``(n, 1, *source)``, `position` n integers.
            device: where the batch goes before it is augmented.
            non_blocking: of that move.
            kwargs: more arguments of ``Tensor.to`` for the image, such as `memory_format`.

        Raises:
            InputError: the patches do not have the size that this augmentation cuts from.
        """
        image = batchdata["image"].to(device, non_blocking=non_blocking)
        label = batchdata["label"].to(device, non_blocking=non_blocking)
        if self.is_on:
            positions = [int(position) for position in batchdata["position"]]
            image, label = self.augmented(image, label, positions)
        return image.to(**kwargs) if kwargs else image, label.long()

    @torch.no_grad()
    def augmented(
        self, image: torch.Tensor, label: torch.Tensor, positions: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the patches at `positions`, augmented; arguments as in a batch, but on the device."""
        wanted = tuple(self.source_size[axis] for axis in self.spatial.axes)
        if tuple(image.shape[2:]) != wanted:
            raise InputError("train.yaml", found=f"patches of {tuple(image.shape[2:])} voxels", wanted=f"{wanted}",
                             remedy="give the dataset the augmentation's `source_size`, or turn one of the two "
                                    "augmentations off", reason="invalid-value")
        generators = [generator_for(self.seed, position) for position in positions]
        with torch.autocast(image.device.type, enabled=False):  # voxels' places need all of float32
            image, label = self.spatial(image, label, generators)
            return self.intensity(image, generators), label


def generator_for(seed: int, position: int) -> torch.Generator:
    """Returns the generator of all random numbers that augment the patch at `position`."""
    words = np.random.SeedSequence((seed, position, STREAM)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]))
