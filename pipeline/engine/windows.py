"""Where the windows of a sliding-window inference lie, and how their voxels are weighted."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import ceil, prod

import torch
from monai.data.utils import compute_importance_map
from torch.nn import functional

from pipeline.imaging.intensities import sample_step

# One window is stretched over a whole scan that is longer than it by at most this factor, while it holds at most so
# many times the voxels that were planned: one forward pass instead of the two to eight that overlapping windows take.
LONGEST_STRETCH = 1.5
LARGEST_STRETCH = 3.0
# No network here halves an axis more often than five times.
LARGEST_MULTIPLE = 32
# Above the lowest intensities by this share of the range lies the body; its box is widened by so many voxels.
AIR_PERCENTILE, BRIGHT_PERCENTILE, AIR_SHARE = 0.5, 99.5, 0.05
BODY_MARGIN = 8
# The body is looked for in cubes of so many voxels, whose mean is not misled by noise.
BODY_CUBE = 4
PERCENTILE_SAMPLES = 500_000
# So many planes at once are divided by their weights, which are never held for the whole volume.
PLANES = 16

Start = tuple[int, ...]
Box = tuple[slice, slice, slice]


def window_starts(size: int, window: int, *, overlap: float, evenly: bool) -> list[int]:
    """Returns where windows start along one axis so that they cover it.

    Args:
        size: voxels along the axis, at least `window`.
        window: voxels of a window.
        overlap: smallest share of a window that its neighbour covers again.
        evenly: at equal distances; else as MONAI does, all but the last at the largest distance.

    >>> window_starts(20, 8, overlap=0.5, evenly=False), window_starts(19, 8, overlap=0.5, evenly=True)
    ([0, 4, 8, 12], [0, 4, 7, 11])
    """
    interval = max(1, int(window * (1 - overlap)))
    count = ceil((size - window) / interval) + 1
    if evenly and count > 1:
        return [round(i * (size - window) / (count - 1)) for i in range(count)]
    return [min(i * interval, size - window) for i in range(count)]


def place_windows(shape: Sequence[int], window: Sequence[int], *, overlap: float, evenly: bool) -> list[Start]:
    """Returns the first voxel of each window, in the order in which they are computed."""
    along = [window_starts(size, edge, overlap=overlap, evenly=evenly)
             for size, edge in zip(shape, window, strict=True)]
    return list(product(*along))


def fitted_window(shape: Sequence[int], planned: Sequence[int]) -> tuple[int, ...]:
    """Returns a window that covers a scan of `shape` with less work than the planned one, where there is such.

    It is shorter where the scan is, and longer only if it then holds all of the scan: instance normalisation would see
    more than it did in training, which is harmless only where a training patch was nearly a whole scan as well. Edges
    stay multiples of the largest power of two in the planned edge, up to 32: the network's poolings divide it.

    >>> fitted_window((43, 59, 30), (40, 56, 40)), fitted_window((200, 43, 30), (64, 40, 64))
    ((48, 64, 32), (64, 40, 32))
    """
    multiples = [min(edge & -edge, LARGEST_MULTIPLE) for edge in planned]
    whole = tuple(ceil(size / multiple) * multiple for size, multiple in zip(shape, multiples, strict=True))
    is_near = all(size <= LONGEST_STRETCH * edge for size, edge in zip(shape, planned, strict=True))
    holds_all = is_near and prod(whole) <= LARGEST_STRETCH * prod(planned)
    fitted = whole if holds_all else tuple(map(min, whole, planned))
    # Of a single multiple the poolings could leave one voxel, which instance normalisation cannot take.
    return tuple(planned) if list(fitted) == multiples else fitted


def body_box(volume: torch.Tensor) -> Box:
    """Returns the box, with a margin, of what is brighter than air in ``(channel, x, y, z)``; all of it if all is.

    The first channel decides. An even volume has no body, and comes back whole.
    """
    image = volume[0]
    # As the voxels lie in memory: in another order each is copied first.
    in_memory = image.permute(sorted(range(3), key=image.stride, reverse=True))
    samples = in_memory.reshape(-1)[:: sample_step(image.shape, PERCENTILE_SAMPLES)].float()
    ends = torch.tensor([AIR_PERCENTILE / 100, BRIGHT_PERCENTILE / 100], device=image.device)
    low, high = (float(end) for end in torch.quantile(samples, ends))
    edges = [min(BODY_CUBE, size) for size in image.shape]
    cubes = _cube_means(image, edges)
    is_body = cubes > low + AIR_SHARE * (high - low)
    if high <= low or not is_body.any():
        return slice(0, image.shape[0]), slice(0, image.shape[1]), slice(0, image.shape[2])
    ranges = []
    for axis, size in enumerate(image.shape):
        occupied = torch.nonzero(is_body.amax(dim=[other for other in range(3) if other != axis])).flatten()
        first, last = int(occupied[0]) * edges[axis], (int(occupied[-1]) + 1) * edges[axis]
        ranges.append(slice(max(0, first - BODY_MARGIN), min(size, last + BODY_MARGIN)))
    return ranges[0], ranges[1], ranges[2]


def _cube_means(image: torch.Tensor, edges: Sequence[int]) -> torch.Tensor:
    """Returns the means of cubes of `edges` voxels of ``(x, y, z)``; those at the far end may be smaller."""
    # Planes as they lie in memory, and as channels: torch pools a single channel in one thread.
    order = sorted(range(3), key=image.stride, reverse=True)
    planes = image.permute(order)[None]
    depth, *inner = (edges[axis] for axis in order)
    pooled = functional.avg_pool2d(planes, inner, ceil_mode=True, count_include_pad=False)
    cubes = functional.avg_pool3d(pooled[None], [depth, 1, 1], ceil_mode=True, count_include_pad=False)[0, 0]
    return cubes.permute([order.index(axis) for axis in range(3)])


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # kept beyond the mode of who asks first: its tensors fail where gradients flow
def window_weights(window: tuple[int, ...]) -> torch.Tensor:
    """Returns the Gaussian weights of a window's voxels, as MONAI's sliding window has them."""
    weights = compute_importance_map(window, mode="gaussian", sigma_scale=0.125, device="cpu", dtype=torch.float32)
    return torch.as_tensor(weights).reshape(window)


def divide_by_weights(total: torch.Tensor, starts: Sequence[Start], weights: torch.Tensor) -> None:
    """Divides the weighted sum ``(classes, x, y, z)`` of all windows by the sum of their weights, in place.

    Args:
        total: of windows at `starts`, each times `weights`.
        starts: from `place_windows`: every combination of those along each axis.
        weights: of a window's voxels, on the same device.
    """
    along_x, along_y, along_z = (sorted(set(along)) for along in zip(*starts, strict=True))
    size_x, size_y, size_z = total.shape[1:]
    laid = _laid(weights, 0, along_x, size_x)
    for first in range(0, size_x, PLANES):
        planes = slice(first, first + PLANES)
        total[:, planes] /= _laid(_laid(laid[planes], 1, along_y, size_y), 2, along_z, size_z)


def _laid(weights: torch.Tensor, axis: int, starts: Sequence[int], size: int) -> torch.Tensor:
    """Returns the sum of `weights` laid at each start along one axis, which is then `size` long."""
    shape, edge = list(weights.shape), weights.shape[axis]
    shape[axis] = size
    result = weights.new_zeros(shape)
    for start in starts:
        result.narrow(axis, start, edge).add_(weights)
    return result


def box_around(mask: torch.Tensor) -> Box | None:
    """Returns the smallest box that holds all true voxels; None where there is none."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = torch.nonzero(mask.amax(dim=others)).flatten()
        if not len(occupied):
            return None
        ranges.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]
