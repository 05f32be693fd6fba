"""From spacing and shape to a network's topology: patch, pooling per axis, and the definition MONAI instantiates.

The rules follow nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, supplementary note 6): a patch covers
equal millimetres along all axes as far as the scans reach, and an axis is halved while it stays long enough and not
much coarser than the finest one. The budgets are sized for minutes of training on two CPU cores, not for a dataset:
there, many small patches learn faster than few large ones (docs/benchmarks.md).
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from pipeline.records.errors import InputError

PATCH_VOXELS = {2: 2**16, 3: 2**15}
WHOLE = 2  # a scan of up to so many patches is not cut: its borders say where one is
BATCH_VOXELS = 3 * 2**16
LARGEST_BATCH = 32
DEEPEST_EDGE = 2.5  # voxels, before the patch is rounded up: shorter feature maps carry no more context
FEATURES = {2: 32, 3: 16}
MOST_FEATURES = 256
MOST_POOLINGS = 5
ARCHITECTURES = ("UNet", "BasicUNet", "DynUNet")
BASIC_UNET_POOLINGS = 4


@dataclass(frozen=True)
class Topology:
    """`patch_size` in voxels and `strides` for each downsampling, both over the network's own spatial axes."""

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]


def plan_topology(shape: tuple[int, ...], spacing_mm: tuple[float, ...], *, architecture: str) -> Topology:
    """Returns patch and strides for scans of a typical `shape` (voxels) at `spacing_mm`, over the same 2 or 3 axes."""
    wanted = _largest_equal_sided_box(shape, spacing_mm, PATCH_VOXELS[len(shape)])
    if architecture == "BasicUNet":
        strides: tuple[tuple[int, ...], ...] = ((2,) * len(shape),) * BASIC_UNET_POOLINGS
    else:
        strides = _strides(wanted, spacing_mm)
    multiples = [prod(stride[axis] for stride in strides) for axis in range(len(shape))]
    patch = (-(-size // multiple) * multiple for size, multiple in zip(wanted, multiples, strict=True))
    return Topology(tuple(patch), strides)


def batch_size_for(patch_size: tuple[int, ...]) -> int:
    """Returns how many patches of `patch_size` voxels fill the batch budget, between 2 and `LARGEST_BATCH`."""
    return max(2, min(LARGEST_BATCH, BATCH_VOXELS // prod(patch_size)))


def network_definition(
    architecture: str, topology: Topology, *, spatial_dims: int, out_channels: int
) -> dict[str, Any]:
    """Returns the `_target_` block of a network with `out_channels` classes, background included.

    Raises:
        InputError: the architecture is not one of `ARCHITECTURES`.
    """
    features = [min(FEATURES[spatial_dims] * 2**level, MOST_FEATURES) for level in range(len(topology.strides) + 1)]
    strides = [list(stride) for stride in topology.strides]
    ones = [1] * spatial_dims
    common = {"spatial_dims": spatial_dims, "in_channels": 1, "out_channels": out_channels}
    if architecture == "UNet":
        special: dict[str, Any] = {"channels": features, "strides": strides, "num_res_units": 2, "norm": "instance"}
    elif architecture == "BasicUNet":
        # Six numbers: five levels down, and the width of the last expansion.
        special = {"features": [*features, features[0]]}
    elif architecture == "DynUNet":
        special = {
            "kernel_size": [[3] * spatial_dims] * len(features),
            "strides": [ones, *strides],
            "upsample_kernel_size": strides,
            "filters": features,
            "res_block": False,
        }
    else:
        raise InputError("configs/<experiment>/bundle.yaml", found=f"architecture {architecture}",
                         wanted=f"one of {', '.join(ARCHITECTURES)}", remedy="choose one", reason="unknown-key")
    return {"_target_": architecture, **common, **special}


def _largest_equal_sided_box(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], budget: int
) -> tuple[int, ...]:
    """Returns the box of equal sides in mm, cut to `shape`, that has the most voxels within `budget`."""
    if prod(shape) <= WHOLE * budget:
        return shape
    low, high = 0.0, max(size * step for size, step in zip(shape, spacing_mm, strict=True))
    for _ in range(50):
        side_mm = (low + high) / 2
        volume = 1.0
        for size, step in zip(shape, spacing_mm, strict=True):
            volume *= min(float(size), side_mm / step)
        low, high = (side_mm, high) if volume <= budget else (low, side_mm)
    return tuple(max(1, min(size, round(low / step))) for size, step in zip(shape, spacing_mm, strict=True))


def _strides(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    edges, steps = [float(size) for size in shape], list(spacing_mm)
    strides: list[tuple[int, ...]] = []
    while len(strides) < MOST_POOLINGS:
        long = [edge / 2 >= DEEPEST_EDGE for edge in edges]
        finest = min((step for step, is_long in zip(steps, long, strict=True) if is_long), default=0.0)
        stride = tuple(
            2 if is_long and step < 2 * finest else 1 for step, is_long in zip(steps, long, strict=True)
        )
        if stride.count(2) < 2:  # one axis alone is not worth a level of the network
            break
        edges = [edge / factor for edge, factor in zip(edges, stride, strict=True)]
        steps = [step * factor for step, factor in zip(steps, stride, strict=True)]
        strides.append(stride)
    return tuple(strides)

