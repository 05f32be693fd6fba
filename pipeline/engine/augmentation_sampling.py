"""Values between voxels: at any points of a volume, and by weights along each of its axes."""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch.nn import functional


def sampled(image: torch.Tensor, label: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns image (linear) and label (nearest) at `points`; beyond the border both go on as they end there.

    Args:
        image: ``(n, c, *source)`` float32.
        label: ``(n, 1, *source)`` of any type.
        points: ``(n, d, *patch)`` float32, in voxels from the source's first voxel.
    """
    # On a CPU, torch's 3D grid_sample is the one that does not use vector instructions.
    is_faster_gathered = image.device.type == "cpu" and image.ndim == 5
    return (sampled_by_gathering if is_faster_gathered else sampled_by_grid)(image, label, points)


def sampled_by_grid(
    image: torch.Tensor, label: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what `sampled` does, by torch's grid_sample: one kernel for all of the batch on a GPU."""
    # Its -1 and 1 are the centres of the outermost voxels, its coordinates in the order z, y, x.
    last = torch.tensor([max(size - 1, 1) for size in image.shape[2:]], dtype=torch.float32)
    unit = points * (2 / last).reshape(-1, *[1] * len(last)).to(points.device, non_blocking=True) - 1
    grid = unit.flip(1).movedim(1, -1)
    images = functional.grid_sample(image, grid, "bilinear", "border", align_corners=True)
    labels = functional.grid_sample(label.float(), grid, "nearest", "border", align_corners=True)
    return images, labels.to(label.dtype)


def sampled_by_gathering(
    image: torch.Tensor, label: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what `sampled` does, by looking the corners of each point's cell up, one sample after the other."""
    images, labels = zip(*[_gathered(*one) for one in zip(image, label, points, strict=True)], strict=True)
    return torch.stack(images), torch.stack(labels)


def along_axes(values: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns ``(c, *values)`` with ``matrices[k]``, ``(new size, size)``, applied along the spatial axis k."""
    shape = list(values.shape)
    for axis, matrix in enumerate(matrices, start=1):
        matrix = matrix.to(values.device, torch.float32)
        after = prod(shape[axis + 1 :])
        stacked = values.reshape(-1, shape[axis], after)
        values = matrix @ stacked if after > 1 else stacked[..., 0] @ matrix.T
        shape[axis] = len(matrix)
    return values.reshape(shape)


def linear_weights(places: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the weights ``(places, count)`` of `count` values 0, 1, ... for what lies between them at `places`."""
    distances = places.clamp(0, count - 1)[:, None] - torch.arange(count)
    return (1 - distances.abs()).clamp(min=0)


def _gathered(
    image: torch.Tensor, label: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = image.shape[1:]
    corner = nearest = torch.zeros((), dtype=torch.int32)
    fractions, steps = [], []
    for axis, size in enumerate(sizes):
        at = points[axis].clamp(0, size - 1)
        below = at.int().clamp(max=max(size - 2, 0))
        fractions.append(at - below)
        corner, nearest = corner * size + below, nearest * size + (at + 0.5).int()
        steps.append(prod(sizes[axis + 1 :]) if size > 1 else 0)
    # Where the corners of the cell lie from its first one, the last axis fastest, as the fractions are used up below.
    offsets = [sum(way) for way in product(*[(0, step) for step in steps])]
    shape, corner = points.shape[1:], corner.flatten()
    channels = []
    for voxels in image.flatten(1):
        values = [voxels[offset:].index_select(0, corner).reshape(shape) for offset in offsets]
        for fraction in reversed(fractions):
            values = [low.lerp_(high, fraction) for low, high in zip(values[::2], values[1::2], strict=True)]
        channels.append(values[0])
    labels = label.flatten().index_select(0, nearest.flatten()).reshape(1, *shape)
    return torch.stack(channels), labels
