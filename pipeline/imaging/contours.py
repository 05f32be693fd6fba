"""Masks to closed contours and back, exactly: filling the contours of a mask gives the mask.

Contours run along the edges of pixels, not through their centres: whether a centre is inside is then never in doubt by
rounding, single pixels keep their area, and every reader that tests centres finds the same pixels. Pixels that touch at
a corner only belong to different contours. A hole is cut out by a channel of no width ("keyhole"), so that each contour
stands for itself: readers that unite contours, that combine them by XOR, and that wind around them all fill the same.

Source: DICOM PS3.3, C.8.8.6.3 representing inner and outer contours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# A contour is (points, 2): x along columns, y along rows, in pixels; the first pixel's centre is (0, 0).
Contour = NDArray[np.float64]
# One pixel of padding, and a corner lies half a pixel before its pixel's centre.
CORNER_OFFSET = 1.5


@dataclass
class _Outline:
    """Corners of a mask's outline, linked to loops that have the mask at their right hand (rows run downward).

    Attributes:
        x, y: corner (x, y) lies between columns x-1 and x and between rows y-1 and y of the padded mask.
        following: the corner after each.
        column_order: corners sorted by x, then y; each two of them end one vertical edge.
    """

    x: list[int]
    y: list[int]
    following: list[int]
    column_order: NDArray[np.intp]


def trace_contours(mask: NDArray[np.bool_]) -> list[Contour]:
    """Returns the contours of ``(row, column)``, one for each part of pixels that share edges, holes cut out.

    Points are corners of pixels; on a straight edge only its ends. The last point joins the first.
    """
    if not mask.any():
        return []
    padded = np.pad(mask, 1)
    outline = _outline(padded)
    loops = _loops(outline)
    holes = [loop for loop in loops if _is_hole(padded, outline, loop)]
    if holes:
        _cut_keyholes(padded, outline, holes)
        loops = _loops(outline)
    return [_points(outline, loop) for loop in loops]


def fill_contours(contours: Sequence[Contour], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns ``(row, column)``: the pixels whose centre lies inside an odd number of the contours.

    Holes as contours of their own and keyholes come out alike, because what is passed twice cancels. A centre on an
    edge belongs to the side of larger x or y.
    """
    rows, columns = shape
    starts = np.concatenate([np.empty((0, 2)), *contours])
    ends = np.concatenate([np.empty((0, 2)), *(np.roll(contour, -1, axis=0) for contour in contours)])
    # The same edge passed in either direction must give the same crossings to the last bit.
    is_upward = starts[:, 1] > ends[:, 1]
    low, high = np.where(is_upward[:, None], ends, starts), np.where(is_upward[:, None], starts, ends)
    first = np.clip(np.ceil(low[:, 1]), 0, rows).astype(np.int64)
    count = np.maximum(np.clip(np.ceil(high[:, 1]), 0, rows).astype(np.int64) - first, 0)
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (high - low)[edge]
    crossing = low[edge, 0] + (row - low[edge, 1]) * slope[:, 0] / slope[:, 1]
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    toggles = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1)).reshape(rows, columns + 1)
    return np.asarray(np.cumsum(toggles[:, :columns], axis=1) % 2 == 1)


def _outline(padded: NDArray[np.bool_]) -> _Outline:
    x, y, row_rank, column_rank = _corners(padded)
    following = np.empty(len(x), dtype=np.intp)
    # Along a row, and along a column, corners pair up to edges.
    row_order = np.lexsort((row_rank, x, y))
    left, right = row_order[0::2], row_order[1::2]
    is_below = padded[y[left], x[left]]
    following[np.where(is_below, left, right)] = np.where(is_below, right, left)
    column_order = np.lexsort((column_rank, y, x))
    top, bottom = column_order[0::2], column_order[1::2]
    is_east = padded[y[top], x[top]]
    following[np.where(is_east, bottom, top)] = np.where(is_east, top, bottom)
    return _Outline(x.tolist(), y.tolist(), following.tolist(), column_order)


def _corners(padded: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
    """Returns x and y of each corner, and its rank among those at the same place, in its row and in its column.

    Where two pixels touch at a corner only there are two corners, one for each: the pixel at the left takes the edge
    that ends there and so comes first in the row, the upper one comes first in the column.
    """
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    single = np.argwhere(upper_left ^ upper_right ^ lower_left ^ lower_right)
    touching = (upper_left == lower_right) & (upper_right == lower_left) & (upper_left != upper_right)
    falling, rising = np.argwhere(touching & upper_left), np.argwhere(touching & upper_right)
    y, x = (np.concatenate([single, falling, falling, rising, rising]) + 1).T
    none, f, r = np.zeros(len(single), dtype=np.intp), np.zeros(len(falling), np.intp), np.zeros(len(rising), np.intp)
    # Falling: upper left pixel, lower right pixel. Rising: upper right pixel, lower left pixel.
    return x, y, np.concatenate([none, f, f + 1, r + 1, r]), np.concatenate([none, f, f + 1, r, r + 1])


def _loops(outline: _Outline) -> list[list[int]]:
    following, is_seen, loops = outline.following, [False] * len(outline.following), []
    for start in range(len(following)):
        if not is_seen[start]:
            loop, node = [], start
            while not is_seen[node]:
                is_seen[node] = True
                loop.append(node)
                node = following[node]
            loops.append(loop)
    return loops


def _leftmost(outline: _Outline, loop: Sequence[int]) -> int:
    """Returns the place in the loop of its upper leftmost corner."""
    return min(range(len(loop)), key=lambda place: (outline.x[loop[place]], outline.y[loop[place]]))


def _is_hole(padded: NDArray[np.bool_], outline: _Outline, loop: Sequence[int]) -> bool:
    corner = loop[_leftmost(outline, loop)]
    return not padded[outline.y[corner], outline.x[corner]]


def _cut_keyholes(padded: NDArray[np.bool_], outline: _Outline, holes: Sequence[Sequence[int]]) -> None:
    """Joins each hole to the outline at its left by a channel that is passed in both directions.

    The channel leaves the hole's upper leftmost corner along the edge between two rows. It ends at another hole or at
    the outer contour, always further left, so that all end at the outer one.
    """
    xs, ys = np.array(outline.x), np.array(outline.y)
    height = padded.shape[0]
    keys = (xs * height + ys)[outline.column_order]
    cuts: dict[int, list[tuple[int, int]]] = {}
    for hole in holes:
        place = _leftmost(outline, hole)
        corner, before = hole[place], hole[place - 1]
        x, y = outline.x[corner], outline.y[corner]
        end_x = int(np.flatnonzero(~(padded[y - 1, :x] & padded[y, :x]))[-1]) + 1
        edge = int(np.searchsorted(keys, end_x * height + y, side="right") - 1) // 2
        # The mask lies to the east of this edge, so the outline runs up it.
        bottom = int(outline.column_order[2 * edge + 1])
        passed = max((cut for cut in cuts.get(bottom, []) if cut[0] > y), key=lambda cut: -cut[0], default=(0, bottom))
        arrive, corner_again, leave = range(len(outline.x), len(outline.x) + 3)
        outline.x.extend([end_x, x, end_x])
        outline.y.extend([y, y, y])
        outline.following.extend([corner, leave, outline.following[passed[1]]])
        outline.following[passed[1]], outline.following[before] = arrive, corner_again
        cuts.setdefault(bottom, []).append((y, leave))


def _points(outline: _Outline, loop: Sequence[int]) -> Contour:
    corners = [(outline.x[node], outline.y[node]) for node in loop]
    # A channel that ends at a corner names it twice.
    kept = [corner for previous, corner in pairwise([corners[-1], *corners]) if corner != previous]
    return np.array(kept, dtype=np.float64) - CORNER_OFFSET
