"""Mirroring: which axes a volume may be flipped along and what its labels become, and a network that sees all flips."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, combinations

import torch

from pipeline.records.sides import LEFT_RIGHT, exchanged_classes

Forward = Callable[[torch.Tensor], torch.Tensor]
SMALLEST = torch.finfo(torch.float32).tiny  # the logarithm of 0 would not be finite


class Mirrors:
    """The ways in which a volume may be mirrored.

    Args:
        axes: of the RAS volume.
        swaps: pairs of label values that exchange where the patient's left and right do.
        labels: names and values; class k of a network is the k-th smallest value.
    """

    def __init__(self, axes: Sequence[int], *, swaps: Sequence[Sequence[int]], labels: Mapping[str, int]) -> None:
        self.axes = tuple(axes)
        self.exchanged = exchanged_classes(swaps, labels)

    def average(self, windows: torch.Tensor, forward: Forward) -> torch.Tensor:
        """Returns the logarithm of the mean class probabilities over all flips, ``(n, classes, x, y, z)``.

        Its softmax are those means. The network runs ``2 ** len(axes)`` times.

        Args:
            windows: ``(n, channels, x, y, z)``.
            forward: the network, from windows to logits ``(n, classes, x, y, z)``, float32.
        """
        total: torch.Tensor | None = None
        flips = list(chain.from_iterable(combinations(self.axes, count) for count in range(len(self.axes) + 1)))
        for flipped in flips:
            dims = [2 + axis for axis in flipped]
            found = forward(windows.flip(dims) if dims else windows).softmax(dim=1)
            if LEFT_RIGHT in flipped:
                # What looks like the left one in the mirror is the right one.
                found = found[:, list(self.exchanged)]
            found = found.flip(dims) if dims else found
            total = found if total is None else total.add_(found)
        assert total is not None, "no flip at all is the first one"
        return total.div_(len(flips)).clamp_(min=SMALLEST).log_()
