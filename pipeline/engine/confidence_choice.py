"""On the validation cases: by what temperature probabilities mean what they say, and what expected Dice is usual."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.calibration import Reliability
from pipeline.engine.cache import CachedCase
from pipeline.engine.confidence import expected_dice, quality_of, rounded, thinned, wide_box
from pipeline.records.confidence import DECIMALS, least_quality

# From half to four times as unsure, in steps of 9 percent.
TEMPERATURES = tuple(2 ** (step / 8) for step in range(-8, 17))
# What is missing in one scan of twenty is probably not among so few.
FEWEST_FOR_ALWAYS = 20


class ConfidenceChoice:
    """Finds on the validation cases by what temperature probabilities mean what they say, and what quality is usual.

    One number divides all logits, so that no label changes. It is the one with the lowest cross entropy in boxes around
    truth and prediction, on the network's grid.

    Args:
        labels: names and values; class k is the k-th smallest value.
        training: the cases that were trained on, which say too whether a label is in every scan.

    Source: temperature scaling, Guo et al. 2017, arXiv:1706.04599.
    """

    def __init__(self, labels: Mapping[str, int], training: Sequence[CachedCase]) -> None:
        self.names = sorted(labels, key=lambda name: labels[name])
        self.training = training
        self.cross_entropy = np.zeros(len(TEMPERATURES))
        self.reliability = [Reliability() for _ in TEMPERATURES]
        self.qualities: list[list[float]] = []
        self.dices: list[float] = []
        self.present: list[list[bool]] = []

    def see(self, truth: NDArray[np.uint8], logits: torch.Tensor) -> None:
        """Takes one validation case: class indices ``(x, y, z)`` and ``(classes, x, y, z)``."""
        true = torch.as_tensor(truth).to(logits.device)
        predicted = (logits[1:] > logits[0]).amax(dim=0)
        self.present.append([bool((true == number).any()) for number in range(1, len(logits))])
        box = wide_box(predicted | (true > 0))
        if box is None:
            return
        inside, wanted = thinned(logits[(slice(None), *box)]), thinned(true[box][None])[0].long().flatten()
        scores = inside.flatten(1).T
        is_right = (scores.argmax(dim=1) == wanted).cpu().numpy()
        for place, temperature in enumerate(TEMPERATURES):
            logarithms = functional.log_softmax(scores / temperature, dim=1)
            self.cross_entropy[place] += float(functional.nll_loss(logarithms, wanted, reduction="sum"))
            self.reliability[place].add(logarithms.amax(dim=1).exp().cpu().numpy(), is_right)
        self.qualities.append([quality_of(expected_dice(logits, temperature)) for temperature in TEMPERATURES])
        self.dices.append(_mean_dice(true, logits))

    def made(self) -> dict[str, Any]:
        """Returns `temperature`, `least_quality`, the labels that are always there, and what shows it."""
        if not self.qualities:
            return self.undecided()
        place = int(self.cross_entropy.argmin())
        before, after = (self.reliability[at].ece for at in (TEMPERATURES.index(1.0), place))
        cases = [{"quality": rounded(qualities[place]), "dice": rounded(dice)}
                 for qualities, dice in zip(self.qualities, self.dices, strict=True)]
        return {
            "temperature": round(TEMPERATURES[place], DECIMALS),
            "ece_before": round(before, DECIMALS),
            "ece_after": round(after, DECIMALS),
            "least_quality": least_quality([case["quality"] for case in cases if case["quality"] is not None]),
            "always_there": self._always_there(),
            "cases": cases,
        }

    def _always_there(self) -> list[str]:
        """Returns the labels that are in every training and validation case; none where those are few."""
        if len(self.present) + len(self.training) < FEWEST_FOR_ALWAYS:
            return []
        left = {number for number in range(1, len(self.names) + 1) if all(case[number - 1] for case in self.present)}
        for case in self.training:
            if not left:
                break
            label = case.label
            left = {number for number in left if (label == number).any()}
        return [self.names[number - 1] for number in sorted(left)]

    @staticmethod
    def undecided() -> dict[str, Any]:
        """Returns what leaves everything as it is: no validation case has anything, or there is no memory for them."""
        return {"temperature": 1.0, "least_quality": None, "always_there": [], "cases": []}


def _mean_dice(true: torch.Tensor, logits: torch.Tensor) -> float:
    """Returns the mean Dice over the labels that truth or prediction has."""
    predicted = logits.argmax(dim=0)
    scores = []
    for number in range(1, len(logits)):
        a, b = true == number, predicted == number
        total = int(a.sum()) + int(b.sum())
        if total:
            scores.append(2 * int((a & b).sum()) / total)
    return sum(scores) / len(scores) if scores else math.nan
