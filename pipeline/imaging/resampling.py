"""From a scan's grid to the network's and back: axes turned to RAS, then each axis interpolated by itself.

Along one axis linear interpolation is a product with a matrix of two numbers a row. Written so, it runs at the speed of
the matrix library and costs about a fifth of sampling all axes at once; where axes stay parallel both are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

# Spacings that differ by no more than this share are the same: headers round.
SPACING_ROUNDING = 1e-3
# Decimals of a size in voxels that are trusted when it is rounded: 3e-8 in an affine must not decide it.
SIZE_DECIMALS = 4
# Rows of a matrix that are multiplied at once, with no other columns than they weigh: nearly all others are zero.
BAND = 32


@dataclass(frozen=True)
class Regrid:
    """How the network's grid lies in a scan's grid. The first voxels of both, seen in RAS, are one point.

    Attributes:
        axes: for each RAS axis (right, front, head) the scan's axis that runs along it.
        flipped: for each RAS axis whether the scan's axis runs against it.
        scan_shape: of the scan, in its own axis order.
        shape: of the network's grid, in RAS order.
        steps: scan voxels from one network voxel to the next, along the RAS axes.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    scan_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    steps: tuple[float, float, float]

    @property
    def is_same_spacing(self) -> bool:
        """Whether both grids have the same voxels, in whatever order."""
        return self.steps == (1.0, 1.0, 1.0)

    def in_scan_order(self) -> tuple[int, int, int]:
        """Returns for each scan axis the RAS axis along it: the order that permutes network axes into the scan's."""
        first, second, third = (self.axes.index(axis) for axis in range(3))
        return first, second, third

    def positions_in_scan(self, axis: int) -> NDArray[np.float64]:
        """Returns for each network voxel along a RAS axis its index, with fractions, along the scan's own axis."""
        size = self.scan_shape[self.axes[axis]]
        along = np.minimum(np.arange(self.shape[axis]) * self.steps[axis], size - 1)
        return np.asarray(size - 1 - along if self.flipped[axis] else along)

    def positions_in_network(self, axis: int) -> NDArray[np.float64]:
        """Returns for each scan voxel along a RAS axis, in the scan's own order, its index in the network's grid."""
        size = self.scan_shape[self.axes[axis]]
        along = np.minimum(np.arange(size) / self.steps[axis], self.shape[axis] - 1)
        return np.asarray(along[::-1] if self.flipped[axis] else along)


def regrid_of(scan_shape: Sequence[int], affine: NDArray[np.float64], *, spacing_mm: Sequence[float]) -> Regrid:
    """Returns the grid with `spacing_mm` along the axes nearest to right, front and head.

    The size is MONAI's (`Spacing`): as many voxels as fit between the first and the last one's centre, rounded.

    Args:
        scan_shape: ``(x, y, z)`` of the scan.
        affine: its ``(4, 4)`` RAS+ affine; axes that are not at right angles are resampled along themselves.
        spacing_mm: in RAS order; 0 or less keeps the scan's own.
    """
    orientation = nib.orientations.io_orientation(affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(3)]
    own_mm = np.linalg.norm(affine[:3, :3], axis=0)
    shape, steps = [], []
    for axis, wanted in zip(axes, spacing_mm, strict=True):
        is_own = wanted <= 0 or abs(wanted - own_mm[axis]) < SPACING_ROUNDING * wanted
        step = 1.0 if is_own else float(wanted / own_mm[axis])
        steps.append(step)
        shape.append(max(1, round(round((scan_shape[axis] - 1) / step, SIZE_DECIMALS) + 1)))
    flipped = tuple(bool(orientation[axis, 1] < 0) for axis in axes)
    return Regrid(_three(axes), _three(flipped), _three(scan_shape), _three(shape), _three(steps))


def to_network_grid(volume: torch.Tensor, regrid: Regrid, *, nearest: bool = False) -> torch.Tensor:
    """Returns ``(x, y, z)`` of a scan in its own order, resampled to ``regrid.shape`` in RAS order.

    Args:
        volume: the scan's voxels, any strides.
        regrid: from `regrid_of`.
        nearest: takes the nearest voxel instead of interpolating: for label maps.
    """
    turned = volume.permute(*regrid.axes)
    # The axis that loses most goes first, so that the others have less to do.
    for axis in sorted(range(3), key=lambda axis: -regrid.steps[axis]):
        positions = regrid.positions_in_scan(axis)
        if regrid.steps[axis] == 1.0 and not regrid.flipped[axis]:
            continue
        if nearest or regrid.steps[axis] == 1.0:
            turned = turned.index_select(axis, torch.from_numpy(np.rint(positions).astype(np.int64)))
        else:
            # Windows have z innermost: laid so here, they are cut along memory.
            turned = interpolate(turned, axis, interpolation_matrix(positions, turned.shape[axis]),
                                 innermost=axis == 2)
    return turned


def interpolation_matrix(positions: NDArray[np.float64], size: int) -> torch.Tensor:
    """Returns ``(len(positions), size)`` float32: row i holds the weights of linear interpolation at positions[i].

    >>> interpolation_matrix(np.array([0.0, 1.25]), 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.75, 0.25]]
    """
    lower = np.clip(np.floor(positions).astype(np.int64), 0, max(0, size - 2))
    share = (positions - lower).astype(np.float32)
    rows = np.arange(len(positions))
    matrix = np.zeros((len(positions), size), dtype=np.float32)
    matrix[rows, lower] = 1 - share
    if size > 1:
        matrix[rows, lower + 1] = share
    return torch.from_numpy(matrix)


def interpolate(volume: torch.Tensor, axis: int, matrix: torch.Tensor, *, innermost: bool = False) -> torch.Tensor:
    """Returns the volume with `matrix` ``(new, old)`` applied along one axis; other axes and their order stay.

    The result has the memory order of the input, so that a chain of calls copies nothing; with `innermost` the axis
    comes last in it, which a product of matrices gives for nothing.
    """
    order = sorted(range(volume.ndim), key=lambda other: -volume.stride(other))
    dense = volume.permute(order)
    place = order.index(axis)
    before, after = dense.shape[:place], dense.shape[place + 1 :]
    if not after:
        result = dense.new_empty(*before, len(matrix))
        _multiply(matrix, dense.reshape(-1, dense.shape[-1]).T, into=result.view(-1, len(matrix)).T)
    elif innermost:
        result = dense.new_empty(*before, *after, len(matrix))
        order = [*order[:place], *order[place + 1 :], axis]
        _multiply(matrix, dense.reshape(*before, -1, after.numel()),
                  into=result.view(*before, after.numel(), len(matrix)).transpose(-1, -2))
    else:
        result = dense.new_empty(*before, len(matrix), *after)
        _multiply(matrix, dense.reshape(*before, -1, after.numel()), into=result.view(*before, -1, after.numel()))
    return result.permute([order.index(other) for other in range(volume.ndim)])


def _multiply(matrix: torch.Tensor, columns: torch.Tensor, *, into: torch.Tensor) -> None:
    """Writes ``matrix @ columns`` into a tensor, band by band: what a band does not weigh is not looked at.

    Args:
        matrix: ``(new, old)``; every row weighs something, and rows side by side the same or neighbouring columns.
        columns: ``(..., old, n)``.
        into: ``(..., new, n)``.
    """
    for first in range(0, len(matrix), BAND):
        rows = matrix[first : first + BAND]
        weighed = torch.nonzero(rows.any(dim=0)).flatten()
        needed = slice(int(weighed[0]), int(weighed[-1]) + 1)
        torch.matmul(rows[:, needed], columns[..., needed, :], out=into[..., first : first + BAND, :])


def _three(values: Sequence[object]) -> tuple:  # type: ignore[type-arg]
    first, second, third = values
    return first, second, third
