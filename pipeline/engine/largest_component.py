"""Whether to keep only the largest component of a label: decided on the validation cases, once, after training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.components import found_components, keep_largest
from pipeline.records.postprocessing import EVERYTHING, UNDECIDED

FEWEST_CASES = 5  # with the label in truth or prediction: of fewer, the standard error says nothing
CONNECTIVITY = 26
DECIMALS = 6
ROUNDING = 1e-9  # one changed case alone improves the mean by exactly its standard error
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class CaseOutcome:
    """One label of one case before and after: Dice, NaN where truth and prediction lack the label, and lost components.

    `lost` are the components of the truth that only the prediction before touches.
    """

    before: float
    after: float
    lost: int
    in_truth: int


class LargestComponentChoice:
    """Decides for each label, and for all labels as one, by what it sees of the validation cases.

    Only what raises the mean Dice by more than its standard error over cases is chosen, and only if no component of the
    truth, found before, is lost. All on the network's grid.

    Args:
        labels: names and values; class k is the k-th smallest value.
        given: what a person chose; None asks for a decision.
    """

    def __init__(self, labels: Mapping[str, int], given: Sequence[str] | None = None) -> None:
        names = sorted(labels, key=lambda name: labels[name])
        self.classes = {name: number for number, name in enumerate(names, start=1)}
        self.given = given
        # A single label is all labels.
        candidates = [*self.classes, *([EVERYTHING] if len(self.classes) > 1 else [])]
        self.outcomes: dict[str, list[dict[str, CaseOutcome]]] = {name: [] for name in candidates}
        self.cases = 0

    def see(self, truth: Labels, logits: torch.Tensor) -> None:
        """Takes one validation case: class indices ``(x, y, z)`` and ``(classes, x, y, z)``."""
        self.cases += 1
        if self.given is None:
            prediction = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
            for name, outcomes in self.outcomes.items():
                outcomes.append(self._outcomes(truth, prediction, name))

    def made(self) -> dict[str, Any]:
        """Returns `chosen`, names of labels or `EVERYTHING`, and the evidence for each candidate."""
        if self.given is not None:
            return {"chosen": list(self.given), "why": "set in bundle.yaml"}
        evidence = {name: _evidence(cases) for name, cases in self.outcomes.items()}
        chosen = [name for name in self.classes if evidence[name]["worth_it"]]
        if EVERYTHING in evidence and evidence[EVERYTHING]["worth_it"]:
            of_everything = self.outcomes[EVERYTHING]
            labels_alone = [{name: self.outcomes[name][case][name] if name in chosen else as_it_was(outcome)
                             for name, outcome in of_all.items()} for case, of_all in enumerate(of_everything)]
            if fmean(_gains(of_everything)) > fmean(_gains(labels_alone)) + ROUNDING:
                chosen = [EVERYTHING]
        return {"chosen": chosen, "why": "validation cases", "cases": self.cases, "connectivity": CONNECTIVITY,
                "candidates": evidence}

    def undecided(self) -> dict[str, Any]:
        """Returns that all components are kept, unless a person chose."""
        return self.made() if self.given is not None else {"chosen": [], "why": UNDECIDED}

    def _outcomes(self, truth: Labels, prediction: Labels, candidate: str) -> dict[str, CaseOutcome]:
        """Returns what a candidate does to the labels it concerns."""
        kept = prediction.copy()
        keep_largest(kept, [candidate], self.classes)
        concerned = self.classes if candidate == EVERYTHING else {candidate: self.classes[candidate]}
        return {name: _outcome(truth == number, prediction == number, kept == number)
                for name, number in concerned.items()}


def _outcome(truth: NDArray[np.bool_], before: NDArray[np.bool_], after: NDArray[np.bool_]) -> CaseOutcome:
    found_before, count = found_components(truth, before)
    found_after, _ = found_components(truth, after)
    return CaseOutcome(_dice(truth, before), _dice(truth, after), found_before - found_after, count)


def _dice(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    total = int(np.count_nonzero(truth)) + int(np.count_nonzero(prediction))
    return 2 * int(np.count_nonzero(truth & prediction)) / total if total else math.nan


def _evidence(cases: Sequence[Mapping[str, CaseOutcome]]) -> dict[str, Any]:
    """Returns the numbers that decide on one candidate, over the cases in which it has voxels, and the decision."""
    defined = _defined(cases)
    lost = sum(outcome.lost for outcomes in cases for outcome in outcomes.values())
    components = sum(outcome.in_truth for outcomes in cases for outcome in outcomes.values())
    numbers: dict[str, Any] = {"cases": len(defined), "truth_components": components, "truth_components_lost": lost}
    if len(defined) < FEWEST_CASES:
        return {**numbers, "worth_it": False, "why": f"fewer than {FEWEST_CASES} cases"}
    gains = _gains(cases)
    gain, error = fmean(gains), stdev(gains) / math.sqrt(len(gains))
    numbers |= {"dice_before": round(fmean(before for before, _ in defined), DECIMALS),
                "dice_after": round(fmean(after for _, after in defined), DECIMALS),
                "standard_error_of_gain": round(error, DECIMALS)}
    if lost:
        return {**numbers, "worth_it": False, "why": f"{lost} components of the truth would be lost"}
    is_clear = gain > error + ROUNDING
    return {**numbers, "worth_it": is_clear,
            "why": f"the gain is {'more' if is_clear else 'not more'} than its standard error"}


def _means(outcomes: Mapping[str, CaseOutcome]) -> tuple[float, float] | None:
    """Returns the mean Dice before and after over the labels that truth or prediction has; None where there are none.

    Where a label without truth disappears from the prediction, its Dice of 0 stays: there is no number to gain.
    """
    pairs = [(one.before, 0.0 if math.isnan(one.after) else one.after) for one in outcomes.values()
             if not math.isnan(one.before)]
    return (fmean(before for before, _ in pairs), fmean(after for _, after in pairs)) if pairs else None


def _defined(cases: Sequence[Mapping[str, CaseOutcome]]) -> list[tuple[float, float]]:
    return [means for outcomes in cases if (means := _means(outcomes)) is not None]


def _gains(cases: Sequence[Mapping[str, CaseOutcome]]) -> list[float]:
    return [after - before for before, after in _defined(cases)]


def as_it_was(outcome: CaseOutcome) -> CaseOutcome:
    """Returns the outcome of doing nothing."""
    return replace(outcome, after=outcome.before, lost=0)
