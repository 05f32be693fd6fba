"""From class scores on the network's grid to labels on the scan's, block by block and only where a label can win."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.windows import Box, box_around
from pipeline.imaging.resampling import Regrid, interpolate, interpolation_matrix

# Scan voxels that are interpolated at once: small enough for the cache's sake, large enough for the matrix product's.
BLOCK_VOXELS = 2**21


@dataclass(frozen=True)
class Labelling:
    """Labels ``(x, y, z)`` on the scan's grid, x fastest in memory; all that are not 0 lie inside `box`."""

    labelmap: NDArray[np.integer[Any]]
    box: Box


def label_scan(logits: torch.Tensor, regrid: Regrid, *, values: Sequence[int]) -> Labelling:
    """Returns for each scan voxel the value of the class whose linearly interpolated probability is highest.

    A label can win at a point only if it beats the background in one of the network voxels around it. So each label is
    interpolated in the box of such voxels alone, and only its lead over the background: exactly what interpolating
    all probabilities everywhere gives, for a fraction of the work. Ties go to the smaller class.

    Args:
        logits: ``(classes, x, y, z)`` on the network's grid; overwritten.
        regrid: between the two grids.
        values: of the classes 1, 2, ... in the label map, rising.
    """
    turned = _in_memory_order(logits, regrid)
    boxes = [box_around(scores > turned[0]) for scores in turned[1:]]
    matrices = _matrices(regrid, logits.device)
    regions = [None if box is None else _scan_box(box, matrices) for box in boxes]
    whole = _union(regions)
    labelmap = np.zeros(regrid.scan_shape[::-1], dtype=np.uint8 if max(values) <= 255 else np.uint16)
    if any(region is not None for region in regions):
        first, second, third = (_needed(matrix, part) for matrix, part in zip(matrices, whole, strict=True))
        leads = _leads(turned[:, first, second, third])
        matrices = [matrix[:, part] for matrix, part in zip(matrices, (first, second, third), strict=True)]
        for block in _blocks(whole):
            found = [(value, lead, inside) for value, lead, region in zip(values, leads, regions, strict=True)
                     if region is not None and (inside := _intersection(region, block)) is not None]
            labelmap[block] = _winners(found, block, matrices).cpu().numpy()
    return Labelling(labelmap.T, (whole[2], whole[1], whole[0]))


def _winners(found: Sequence[tuple[int, torch.Tensor, Box]], block: Box,
             matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the label values in `block`, from each label's value, lead over the background, and box within it."""
    shape = [part.stop - part.start for part in block]
    device = matrices[0].device
    labels = torch.zeros(shape, dtype=torch.int32, device=device)
    best = torch.zeros(shape, device=device) if len(found) > 1 else None
    for value, lead, inside in found:
        here = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inside, block, strict=True))
        lead_here = _interpolated(lead, matrices, inside)
        if best is None:
            labels[here] = (lead_here > 0).int() * value
            continue
        wins = lead_here > best[here]
        labels[here] = torch.where(wins, value, labels[here])
        best[here] = torch.maximum(lead_here, best[here])
    return labels


def class_probabilities(logits: torch.Tensor, regrid: Regrid) -> Iterator[NDArray[np.float32]]:
    """Yields for each class, background first, its probability ``(x, y, z)`` on the scan's grid, x fastest in memory.

    Args:
        logits: ``(classes, x, y, z)`` on the network's grid; kept.
        regrid: between the two grids.
    """
    turned = _in_memory_order(logits, regrid)
    matrices = _matrices(regrid, logits.device)
    shape = regrid.scan_shape[::-1]
    for probability in turned.softmax(dim=0):
        found = np.empty(shape, dtype=np.float32)
        for block in _blocks((slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))):
            found[block] = _interpolated(probability, matrices, block).cpu().numpy()
        yield found.T


def _in_memory_order(logits: torch.Tensor, regrid: Regrid) -> torch.Tensor:
    """Returns a view ``(class, z, y, x)`` in the scan's axes: x, which NIfTI and DICOM keep together, is innermost."""
    first, second, third = regrid.in_scan_order()
    return logits.permute(0, third + 1, second + 1, first + 1)


def _matrices(regrid: Regrid, device: torch.device) -> list[torch.Tensor]:
    """Returns the interpolation along z, y and x of the scan."""
    axes = [regrid.axes.index(scan_axis) for scan_axis in (2, 1, 0)]
    return [interpolation_matrix(regrid.positions_in_network(axis), regrid.shape[axis]).to(device) for axis in axes]


def _leads(logits: torch.Tensor) -> torch.Tensor:
    """Returns for each class but the first by how much its probability exceeds the first one's, axes as they are.

    In the place of the logits, and plane by plane in their memory order, for softmax takes copies.
    """
    axis = max(range(1, 4), key=logits.stride)
    for plane in logits.unbind(axis):
        probabilities = plane.softmax(dim=0)
        torch.sub(probabilities[1:], probabilities[0], out=plane[1:])
    return logits[1:]


def _needed(matrix: torch.Tensor, rows: slice) -> slice:
    """Returns the columns that the rows weigh."""
    columns = torch.nonzero((matrix[rows] > 0).any(dim=0)).flatten()
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _scan_box(box: Box, matrices: Sequence[torch.Tensor]) -> Box | None:
    """Returns the scan voxels whose interpolation touches the network voxels in `box`."""
    touched = [torch.nonzero((matrix[:, part] > 0).any(dim=1)).flatten()
               for matrix, part in zip(matrices, box, strict=True)]
    if not all(len(indices) for indices in touched):
        return None  # a coarser scan may step over a small box
    first, second, third = (slice(int(indices[0]), int(indices[-1]) + 1) for indices in touched)
    return first, second, third


def _blocks(whole: Box) -> Iterator[Box]:
    """Yields slabs along the first axis that together are `whole`."""
    across = (whole[1].stop - whole[1].start) * (whole[2].stop - whole[2].start)
    height = max(1, BLOCK_VOXELS // max(1, across))
    for start in range(whole[0].start, whole[0].stop, height):
        yield slice(start, min(start + height, whole[0].stop)), whole[1], whole[2]


def _union(regions: Sequence[Box | None]) -> Box:
    """Returns the box around all regions; an empty one where there is none."""
    found = [region for region in regions if region is not None]
    first, second, third = (
        slice(min((region[axis].start for region in found), default=0),
              max((region[axis].stop for region in found), default=0)) for axis in range(3))
    return first, second, third


def _intersection(region: Box, block: Box) -> Box | None:
    starts = [max(a.start, b.start) for a, b in zip(region, block, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(region, block, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return None
    first, second, third = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    return first, second, third


def _interpolated(volume: torch.Tensor, matrices: Sequence[torch.Tensor], block: Box) -> torch.Tensor:
    """Returns the scan voxels of `block` interpolated from `volume`, with no other network voxels than they need."""
    result = volume
    for axis, (matrix, part) in enumerate(zip(matrices, block, strict=True)):
        needed = _needed(matrix, part)
        rows = matrix[part, needed]
        result = result.narrow(axis, needed.start, needed.stop - needed.start)
        if not torch.equal(rows, torch.eye(*rows.shape, device=rows.device)):
            result = interpolate(result, axis, rows)
    return result
