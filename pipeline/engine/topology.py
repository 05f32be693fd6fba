"""From spacing and shape to a network's topology: patch, pooling and kernels per axis, and what MONAI instantiates.

The rules follow nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, supplementary note 6): a patch covers
equal millimetres along all axes as far as the scans reach, an axis is halved while it stays long enough and not much
coarser than the finest one, and a kernel does not reach along an axis while it is that much coarser. The budgets are
sized for minutes of training on two CPU cores, not for a dataset: there, many small patches learn faster than few large
ones (docs/benchmarks.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from pipeline.records.decisions import Decision
from pipeline.records.errors import InputError

PATCH_VOXELS = {2: 2**16, 3: 2**15}
FEWEST_VOXELS = 2**9  # a patch is not made smaller than this to save memory
WHOLE = 2  # a scan of up to so many patches is not cut: its borders say where one is
BATCH_VOXELS = 3 * 2**16
SMALLEST_BATCH, LARGEST_BATCH = 2, 32
DEEPEST_EDGE = 2.5  # voxels, before the patch is rounded up: shorter feature maps carry no more context
COARSE = 2  # so many times the finest spacing and more: not halved, and not reached along by a kernel
WIDTH = {2: 32, 3: 16}  # features of the first level
MOST_FEATURES = 256
MOST_POOLINGS = 5
ARCHITECTURES = ("UNet", "BasicUNet", "DynUNet")
BASIC_UNET_POOLINGS = 4
# DynUNet has no fewer levels than three, UNet no fewer than two.
FEWEST_POOLINGS = {"UNet": 1, "BasicUNet": BASIC_UNET_POOLINGS, "DynUNet": 2}
# Float32 numbers that training holds at its peak for each feature and voxel of a level, and of the output. Measured on
# a CPU with patches of 64^3: what autograd keeps (12, 13 and 10; 4), gradients, the convolutions' scratch, the loss.
HELD = {"UNet": 31, "BasicUNet": 28, "DynUNet": 18}
HELD_OUTPUT = 14


@dataclass(frozen=True)
class Topology:
    """`patch_size` in voxels and, over the same axes, `strides` of each downsampling and `kernel_sizes` of each level.

    There is one level more than downsamplings. `why_patch` says where the patch comes from.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    why_patch: str


def plan_topology(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], *, architecture: str, patch_voxels: int | None = None
) -> Topology:
    """Returns patch, strides and kernels for scans of a typical `shape` (voxels) at `spacing_mm`, over 2 or 3 axes.

    Args:
        shape: over the network's own axes.
        spacing_mm: over the same axes.
        architecture: one of `ARCHITECTURES`.
        patch_voxels: about how many a patch has; None takes `PATCH_VOXELS`.
    """
    box = _box_to_see(shape, spacing_mm, patch_voxels or PATCH_VOXELS[len(shape)])
    strides = ((2,) * len(shape),) * BASIC_UNET_POOLINGS
    if architecture != "BasicUNet":
        strides = _strides(box.value, spacing_mm)
        strides += ((2,) * len(shape),) * (FEWEST_POOLINGS.get(architecture, 0) - len(strides))
    multiples = [prod(stride[axis] for stride in strides) for axis in range(len(shape))]
    # Twice the multiple where an axis is halved at all: normalisation needs more than one voxel at the deepest level.
    patch = tuple(max(-(-size // multiple), min(2, multiple)) * multiple
                  for size, multiple in zip(box.value, multiples, strict=True))
    why = f"{box.why}, rounded up to multiples of {_by(multiples)} for {len(strides)} halvings"
    return Topology(patch, strides, _kernel_sizes(spacing_mm, strides), why)


def fitting_topology(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], *, architecture: str, width: int, classes: int,
    memory_gib: float,
) -> Topology:
    """Returns the usual topology, or one of a smaller patch of which the smallest batch fits into the memory."""
    usual = voxels = PATCH_VOXELS[len(shape)]
    while True:
        topology = plan_topology(shape, spacing_mm, architecture=architecture, patch_voxels=voxels)
        patch_gib = memory_of_patch_gib(architecture, topology, patch_size=topology.patch_size, width=width,
                                        out_channels=classes)
        if SMALLEST_BATCH * patch_gib <= memory_gib or voxels <= FEWEST_VOXELS:
            break
        voxels //= 2
    if voxels == usual:
        return topology
    return replace(topology, why_patch=f"{topology.why_patch}; of {usual} voxels `memory_gib` has no room for two")


def batch_size_for(patch_size: Sequence[int], *, patch_gib: float, memory_gib: float) -> Decision:
    """Returns how many patches of `patch_size` voxels fill the batch's budget of voxels and fit into the memory.

    Args:
        patch_size: voxels.
        patch_gib: what training takes for one patch (`memory_of_patch_gib`).
        memory_gib: what it may take for all.
    """
    voxels = prod(patch_size)
    batch = max(SMALLEST_BATCH, min(LARGEST_BATCH, BATCH_VOXELS // voxels))
    why = (f"{BATCH_VOXELS} voxels a batch / {voxels} a patch, "
           f"{SMALLEST_BATCH} at least and {LARGEST_BATCH} at most; about {batch * patch_gib:.2g} GiB")
    fitting = max(1, int(memory_gib / patch_gib))
    if batch <= fitting:
        return Decision(batch, why)
    return Decision(fitting, f"as many patches of about {patch_gib:.2g} GiB as `memory_gib` has room for")


def features_of(topology: Topology, *, width: int) -> list[int]:
    """Returns the features of each level: `width`, doubled from level to level up to `MOST_FEATURES`."""
    return [min(width * 2**level, max(width, MOST_FEATURES)) for level in range(len(topology.strides) + 1)]


def memory_of_patch_gib(
    architecture: str, topology: Topology, *, patch_size: Sequence[int], width: int, out_channels: int
) -> float:
    """Returns about how much memory a training step takes for one patch, in GiB: a forecast; the schedule checks it."""
    grids = [prod(patch_size)]
    for stride in topology.strides:
        grids.append(grids[-1] // prod(stride))
    if architecture == "UNet":
        # MONAI's UNet halves in its first convolution: the features of a level live on the next level's grid.
        grids = [*grids, grids[-1]]
        output, grids = grids[0], grids[1:]
    else:
        output = grids[0]
    inner = sum(grid * features for grid, features in zip(grids, features_of(topology, width=width), strict=True))
    return 4 * (HELD[architecture] * inner + HELD_OUTPUT * out_channels * output) / 2**30


def network_definition(
    architecture: str, topology: Topology, *, spatial_dims: int, out_channels: int, in_channels: int = 1,
    width: int | None = None,
) -> dict[str, Any]:
    """Returns the `_target_` block of a network for images of `in_channels`.

    Its classes are `out_channels`, background included; `width` is the features of its first level. DynUNet has a
    kernel size for each level. BasicUNet has 3 fixed, and UNet one for all its levels: 3, because a 1 would keep the
    whole network from looking along that axis.

    Raises:
        InputError: the architecture is not one of `ARCHITECTURES`.
    """
    features = features_of(topology, width=width or WIDTH[spatial_dims])
    strides = [list(stride) for stride in topology.strides]
    common = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    if architecture == "UNet":
        special: dict[str, Any] = {"channels": features, "strides": strides, "num_res_units": 2, "norm": "instance"}
    elif architecture == "BasicUNet":
        # Six numbers: five levels down, and the width of the last expansion.
        special = {"features": [*features, features[0]]}
    elif architecture == "DynUNet":
        special = {
            "kernel_size": [list(kernel) for kernel in topology.kernel_sizes],
            "strides": [[1] * spatial_dims, *strides],
            "upsample_kernel_size": strides,
            "filters": features,
            "res_block": False,
        }
    else:
        raise InputError("configs/<experiment>/bundle.yaml", found=f"architecture {architecture}",
                         wanted=f"one of {', '.join(ARCHITECTURES)}", remedy="choose one", reason="unknown-key")
    return {"_target_": architecture, **common, **special}


def why_network(architecture: str, topology: Topology) -> str:
    """Returns what the network's levels come from, in words."""
    pooled = [sum(stride[axis] > 1 for stride in topology.strides) for axis in range(len(topology.patch_size))]
    flat = sum(1 in kernel for kernel in topology.kernel_sizes)
    kernels = "kernels of 3"
    if flat:
        kernels = f"kernels {_by(topology.kernel_sizes[0])} for {flat} levels, while an axis is {COARSE}x coarser"
        if architecture != "DynUNet":
            kernels = f"kernels of 3 ({architecture} has one size for all levels; DynUNet would take {kernels})"
    halved = "fixed by BasicUNet" if architecture == "BasicUNet" else (
        f"while {DEEPEST_EDGE} voxels remain and the axis is less than {COARSE}x coarser than the finest")
    return f"{architecture}; axes halved {_by(pooled)} times, {halved}; {kernels}"


def _by(numbers: Sequence[int]) -> str:
    return " x ".join(str(number) for number in numbers)


def _box_to_see(shape: tuple[int, ...], spacing_mm: tuple[float, ...], budget: int) -> Decision:
    """Returns the whole shape, or the box of equal sides in mm, cut to it, that has the most voxels within `budget`."""
    if prod(shape) <= WHOLE * budget:
        return Decision(shape, f"the whole typical scan of {_by(shape)} voxels, at most {WHOLE * budget}")
    low, high = 0.0, max(size * step for size, step in zip(shape, spacing_mm, strict=True))
    for _ in range(50):
        side_mm = (low + high) / 2
        volume = 1.0
        for size, step in zip(shape, spacing_mm, strict=True):
            volume *= min(float(size), side_mm / step)
        low, high = (side_mm, high) if volume <= budget else (low, side_mm)
    box = tuple(max(1, min(size, round(low / step))) for size, step in zip(shape, spacing_mm, strict=True))
    return Decision(box, f"{low:.3g} mm along each axis as far as the typical scan of {_by(shape)} voxels reaches: "
                         f"{_by(box)}, about {budget} voxels")


def _strides(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    edges, steps = [float(size) for size in shape], list(spacing_mm)
    strides: list[tuple[int, ...]] = []
    while len(strides) < MOST_POOLINGS:
        long = [edge / 2 >= DEEPEST_EDGE for edge in edges]
        finest = min((step for step, is_long in zip(steps, long, strict=True) if is_long), default=0.0)
        stride = tuple(
            2 if is_long and step < COARSE * finest else 1 for step, is_long in zip(steps, long, strict=True)
        )
        if stride.count(2) < 2:  # one axis alone is not worth a level of the network
            break
        edges = [edge / factor for edge, factor in zip(edges, stride, strict=True)]
        steps = [step * factor for step, factor in zip(steps, stride, strict=True)]
        strides.append(stride)
    return tuple(strides)


def _kernel_sizes(spacing_mm: tuple[float, ...], strides: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Returns for each level 3 along an axis from where it is less than `COARSE` times the finest, and 1 before.

    The deepest level looks along all axes, also those that never came so far.
    """
    steps, seen = list(spacing_mm), [False] * len(spacing_mm)
    kernels = []
    for stride in ((1,) * len(steps), *strides):
        steps = [step * factor for step, factor in zip(steps, stride, strict=True)]
        seen = [was or step < COARSE * min(steps) for was, step in zip(seen, steps, strict=True)]
        kernels.append(tuple(3 if axis else 1 for axis in seen))
    return *kernels[:-1], (3,) * len(steps)
