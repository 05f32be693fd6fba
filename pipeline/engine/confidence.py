"""How sure a network is: probabilities that mean what they say, and how well a scan was probably segmented."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.calibration import MARGIN_VOXELS
from pipeline.engine.windows import Box, box_around
from pipeline.records.confidence import DECIMALS, UNSURE_SHARE

# Of that box; of a larger one every n-th along each axis stands for the others.
MOST_VOXELS = 2**18


@dataclass(frozen=True)
class Confidence:
    """By what a model is sure of a scan, all from the validation cases: `ConfidenceChoice` explains the fields."""

    temperature: float = 1.0
    least_quality: float | None = None
    always_there: tuple[str, ...] = ()

    def doubts(self, expected_dice: Mapping[str, float], quality: float) -> Iterator[str]:
        """Yields why what was found in a scan is not sure."""
        for label in self.always_there:
            if math.isnan(expected_dice[label]):
                yield f"no {label} found: it is in every scan of training and validation"
        if self.least_quality is not None and quality < self.least_quality:
            yield (f"expected Dice {quality:.2f}: {1 - UNSURE_SHARE:.0%} of the validation scans have "
                   f"{self.least_quality:.2f} or more")


def expected_dice(logits: torch.Tensor, temperature: float = 1.0) -> list[float]:
    """Returns for each label the Dice that its own probabilities let expect; NaN where it is not predicted.

    Twice the probability inside of the prediction over prediction and probability together, near what is predicted:
    of probabilities that mean what they say, about the mean Dice over all truths that are possible.

    Args:
        logits: ``(classes, x, y, z)`` on the network's grid; kept.
        temperature: what they are divided by.

    Source: soft Dice confidence, Borges et al. 2024, arXiv:2402.10665.
    """
    box = wide_box((logits[1:] > logits[0]).amax(dim=0))
    if box is None:
        return [math.nan] * (len(logits) - 1)
    inside = thinned(logits[(slice(None), *box)])
    probabilities = (inside / temperature).softmax(dim=0)
    winners = inside.argmax(dim=0)
    expected = []
    for number, probability in enumerate(probabilities[1:], start=1):
        mask = winners == number
        size, mass = int(mask.sum()), float(probability.sum())
        expected.append(2 * float((probability * mask).sum()) / (size + mass) if size else math.nan)
    return expected


def quality_of(expected: Sequence[float]) -> float:
    """Returns the mean of the expected Dice over the labels that were predicted; NaN where none was."""
    defined = [value for value in expected if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def wide_box(mask: torch.Tensor) -> Box | None:
    """Returns the box around the true voxels, widened by `MARGIN_VOXELS` as far as the volume goes; None of none."""
    box = box_around(mask)
    if box is None:
        return None
    # A slice ends where the volume does.
    first, second, third = (slice(max(0, part.start - MARGIN_VOXELS), part.stop + MARGIN_VOXELS) for part in box)
    return first, second, third


def thinned(volume: torch.Tensor) -> torch.Tensor:
    """Returns ``(channels, x, y, z)`` with every n-th voxel along each axis, so that they are about `MOST_VOXELS`."""
    step = max(1, round((volume[0].numel() / MOST_VOXELS) ** (1 / 3)))
    return volume[:, ::step, ::step, ::step]


def rounded(value: float) -> float | None:
    """Returns a number as JSON has it: None for NaN."""
    return None if math.isnan(value) else round(value, DECIMALS)
