"""Sliding windows over a whole volume, for 3D networks and, slice by slice, for 2D ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from math import prod
from typing import Any

import torch
from monai.inferers import Inferer
from torch.nn import functional

from pipeline.engine.memory import room_for
from pipeline.engine.mirroring import Mirrors
from pipeline.engine.speeds import reduced_dtype, speed_named
from pipeline.engine.windows import (
    Box,
    Start,
    body_box,
    divide_by_weights,
    fitted_window,
    place_windows,
    window_weights,
)
from pipeline.records.errors import InputError

Network = Callable[..., torch.Tensor]
# Windows per forward pass on CPUs, where one takes a slower path and four no faster one, and on GPUs.
WINDOW_BATCH = (2, 8)
# Slices of a 2D network have fewer voxels than the windows of a 3D one.
SLICE_BATCH = 16
# Every eighth voxel along each axis tells nearly always that a window is not flat.
FEW = 8
# A logit that leaves other classes no chance.
CERTAIN = 20.0


class WindowInferer(Inferer):
    """Segments ``(batch, channel, x, y, z)`` volumes by overlapping windows, weighted by a Gaussian.

    With ``exact`` the windows, their weights and their sum are those of MONAI's ``sliding_window_inference``, padding
    by replication. Windows of a single intensity, as outside a body after clipping, share one forward pass.

    Args:
        patch_size: the window, voxels ``(x, y, z)``, 1 along `slice_axis`.
        slice_axis: None for a 3D network; for a 2D network the volume axis it steps along.
        window_batch: 3D windows per forward pass; None takes what is fastest on the device.
        overlap: share of a window that its neighbour covers again, 0 to below 1.
        speed: a name in `pipeline.engine.speeds.SPEEDS`.
        mirrors: the ways to mirror over which each window's class probabilities are averaged; None: it is seen once.

    Raises:
        InputError: ``unknown-speed``.
    """

    def __init__(self, patch_size: Sequence[int], *, slice_axis: int | None, window_batch: int | None = None,
                 overlap: float = 0.5, speed: str = "exact", mirrors: Mirrors | None = None) -> None:
        self.planned = tuple(patch_size)
        self.slice_axis = slice_axis
        self.window_batch = window_batch
        self.speed = speed_named(speed)
        self.mirrors = mirrors
        self.overlap = overlap if self.speed.overlap is None else min(overlap, self.speed.overlap)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns logits ``(batch, classes, x, y, z)``, float32, on the input's grid.

        They are on the input's device, or on the host where the device has no room for them.
        """
        forward = self._forward(network, inputs.device, args, kwargs)
        found = [self._in_body(volume, forward) for volume in inputs]
        return found[0][None] if len(found) == 1 else torch.stack(found)

    def without_mirrors(self) -> "WindowInferer":
        """Returns the same inferer, which sees each window once."""
        other = copy(self)
        other.mirrors = None
        return other

    def _in_body(self, volume: torch.Tensor, forward: Network) -> torch.Tensor:
        """Returns logits ``(classes, x, y, z)``; where air is skipped, they are certain of the background there."""
        box = body_box(volume) if self.speed.skips_air else None
        if box is None or self._count(volume[(slice(None), *box)].shape[1:]) == self._count(volume.shape[1:]):
            box = slice(0, volume.shape[1]), slice(0, volume.shape[2]), slice(0, volume.shape[3])
        return self._slide(volume, box, forward)

    def _count(self, shape: Sequence[int]) -> int:
        """Returns how many windows a volume of this shape takes, weighted by their voxels."""
        window = self._window(shape)
        size = [max(extent, edge) for extent, edge in zip(shape, window, strict=True)]
        return len(place_windows(size, window, overlap=self.overlap, evenly=True)) * prod(window)

    def _slide(self, volume: torch.Tensor, box: Box, forward: Network) -> torch.Tensor:
        """Returns logits ``(classes, x, y, z)`` of one ``(channel, x, y, z)``, from windows that cover `box`."""
        inside = volume[(slice(None), *box)]
        window = self._window(inside.shape[1:])
        padded, inner = _padded(inside, window)
        logits, total, weights = None, None, window_weights(window)
        starts = place_windows(padded.shape[1:], window, overlap=self.overlap, evenly=self.speed.fits_windows)
        for start, scores in self._scores(padded, starts, window, forward):
            if total is None:
                room = room_for(max(volume, padded, key=torch.numel), len(scores))
                logits, weights = _background(len(scores), volume.shape[1:], box, room), weights.to(room)
                # Where nothing was padded they are summed where the result lies: large scans have no second volume.
                total = logits[(slice(None), *box)] if padded is inside else \
                    torch.zeros(len(scores), *padded.shape[1:], device=room)
            place = tuple(slice(first, first + edge) for first, edge in zip(start, window, strict=True))
            total[(slice(None), *place)].addcmul_(scores.to(total.device), weights)
        assert logits is not None, "there is at least one window"
        assert total is not None, "it comes with the logits"
        divide_by_weights(total, starts, weights)
        if not torch.isfinite(total.sum()):
            raise InputError("scan", found="class scores that are not finite", wanted="numbers",
                             remedy="try --speed exact; if that fails too, the weights are damaged",
                             reason="non-finite-scores")
        if padded is not inside:
            logits[(slice(None), *box)] = total[(slice(None), *inner)]
        return logits

    def _scores(self, volume: torch.Tensor, starts: Sequence[Start], window: Sequence[int],
                forward: Network) -> Iterator[tuple[Start, torch.Tensor]]:
        """Yields each window's start and its logits ``(classes, x, y, z)``."""
        flat: dict[float, torch.Tensor] = {}
        waiting: list[tuple[Start, torch.Tensor]] = []
        batch = self.window_batch or WINDOW_BATCH[volume.device.type == "cuda"]
        batch = batch if self.slice_axis is None else SLICE_BATCH
        for start in starts:
            cut = volume[(slice(None), *(slice(a, a + edge) for a, edge in zip(start, window, strict=True)))]
            if _is_flat(cut):
                value = float(cut.flatten()[0])
                if value not in flat:
                    # One is enough for air; more would add up.
                    flat = {value: forward(cut[None])[0]}
                yield start, flat[value]
                continue
            waiting.append((start, cut))
            if len(waiting) == batch:
                yield from _computed(waiting, forward)
                waiting = []
        if waiting:
            yield from _computed(waiting, forward)

    def _window(self, shape: Sequence[int]) -> tuple[int, ...]:
        return fitted_window(shape, self.planned) if self.speed.fits_windows else self.planned

    def _forward(self, network: Network, device: torch.device, args: Sequence[Any], kwargs: dict[str, Any]) -> Network:
        """Returns the network for windows ``(batch, channel, x, y, z)``, float32 in and out."""
        def forward(windows: torch.Tensor) -> torch.Tensor:
            if self.slice_axis is not None:
                windows = windows.squeeze(self.slice_axis + 2)
            with self._precision(device):
                logits = torch.as_tensor(network(windows, *args, **kwargs)).float()
            return logits if self.slice_axis is None else logits.unsqueeze(self.slice_axis + 2)

        mirrors = self.mirrors
        return forward if mirrors is None else lambda windows: mirrors.average(windows, forward)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        dtype = reduced_dtype(device.type) if self.speed.reduced_precision else None
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _background(classes: int, shape: Sequence[int], box: Box, device: torch.device) -> torch.Tensor:
    """Returns logits ``(classes, x, y, z)`` that are 0 inside of `box` and certain of the background around it."""
    logits = torch.zeros(classes, *shape, device=device)
    for axis, (part, size) in enumerate(zip(box, shape, strict=True)):
        logits[0].narrow(axis, 0, part.start).fill_(CERTAIN)
        logits[0].narrow(axis, part.stop, size - part.stop).fill_(CERTAIN)
    return logits


def _is_flat(cut: torch.Tensor) -> bool:
    """Returns whether all voxels of ``(channel, x, y, z)`` are equal; of most windows a few voxels tell."""
    few = cut[:, ::FEW, ::FEW, ::FEW]
    return all(float(low) == float(high) for low, high in map(torch.aminmax, (few, cut)))


def _computed(waiting: Sequence[tuple[Start, torch.Tensor]], forward: Network) -> Iterator[tuple[Start, torch.Tensor]]:
    scores = forward(torch.stack([cut for _, cut in waiting]))
    yield from ((start, found) for (start, _), found in zip(waiting, scores, strict=True))


def _padded(volume: torch.Tensor, window: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Returns the volume, replicated at its borders up to the window's size, and where it lies in the result."""
    missing = [max(0, edge - size) for edge, size in zip(window, volume.shape[1:], strict=True)]
    inner = tuple(slice(gap // 2, gap // 2 + size) for gap, size in zip(missing, volume.shape[1:], strict=True))
    if not any(missing):
        return volume, inner
    ends = [end for gap in reversed(missing) for end in (gap // 2, gap - gap // 2)]
    return functional.pad(volume[None], ends, mode="replicate")[0], inner

