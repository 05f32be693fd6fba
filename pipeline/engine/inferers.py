"""Sliding windows over a whole volume, for 3D networks and, slice by slice, for 2D ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference


class WindowInferer(Inferer):
    """Segments ``(batch, channel, x, y, z)`` volumes by overlapping windows, weighted by a Gaussian.

    Args:
        patch_size: the window, voxels ``(x, y, z)``, 1 along `slice_axis`.
        slice_axis: None for a 3D network; for a 2D network the volume axis it steps along.
        window_batch: 3D windows per forward pass; 2D networks take as many slices as have about the same voxels.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
    """

    def __init__(
        self, patch_size: Sequence[int], *, slice_axis: int | None, window_batch: int = 4, overlap: float = 0.5
    ) -> None:
        self.slice_axis = slice_axis
        self.window = [size for axis, size in enumerate(patch_size) if axis != slice_axis]
        self.window_batch = window_batch
        self.overlap = overlap

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Returns logits ``(batch, classes, x, y, z)`` on the input's grid."""
        if self.slice_axis is None:
            return self._slide(inputs, network, *args, **kwargs)
        along = self.slice_axis + 2
        slices = torch.cat(list(inputs.movedim(along, 1)))  # (batch * slice, channel, first, second)
        logits = self._slide(slices, network, *args, **kwargs)
        return logits.unflatten(0, (inputs.shape[0], -1)).movedim(1, along)

    def _slide(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        batch = self.window_batch if self.slice_axis is None else 16
        result = sliding_window_inference(
            inputs, self.window, batch, lambda windows: network(windows, *args, **kwargs), self.overlap,
            mode="gaussian", padding_mode="replicate",
        )
        return torch.as_tensor(result)
