"""Whether to keep only the largest component of a label: decided on the validation cases, once, after training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.components import found_components, keep_largest
from pipeline.engine.memory import is_out_of_memory
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
    """Segments the validation cases by the trained network and decides for each label, and for all labels as one.

    Only what raises the mean Dice by more than its standard error over cases is chosen, and only if no component of the
    truth, found before, is lost. All on the network's grid.

    Args:
        network: with the weights that are kept.
        inferer: takes ``(1, channels, x, y, z)`` and the network, returns logits ``(1, classes, x, y, z)``.
        device: of the network.
        volumes: `image` ``(channels, x, y, z)`` and `label` ``(1, x, y, z)`` class indices of each case.
        labels: names and values; class k is the k-th smallest value.
        given: what a person chose; None asks for a decision.
    """

    def __init__(self, *, network: torch.nn.Module, inferer: Callable[..., torch.Tensor], device: torch.device,
                 volumes: Sequence[Mapping[str, torch.Tensor]], labels: Mapping[str, int],
                 given: Sequence[str] | None = None) -> None:
        self.network, self.inferer, self.device = network, inferer, device
        self.volumes = volumes
        names = sorted(labels, key=lambda name: labels[name])
        self.classes = {name: number for number, name in enumerate(names, start=1)}
        self.given = given

    def choose(self) -> dict[str, Any]:
        """Returns `chosen`, names of labels or `EVERYTHING`, and the evidence for each candidate."""
        if self.given is not None:
            return {"chosen": list(self.given), "why": "set in bundle.yaml"}
        # A single label is all labels.
        candidates = [*self.classes, *([EVERYTHING] if len(self.classes) > 1 else [])]
        outcomes: dict[str, list[dict[str, CaseOutcome]]] = {name: [] for name in candidates}
        try:
            for truth, prediction in self._segmented():
                for name in candidates:
                    outcomes[name].append(self._outcomes(truth, prediction, name))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # The training has ended, and its weights are worth more than this choice.
            return {"chosen": [], "why": UNDECIDED}
        evidence = {name: _evidence(cases) for name, cases in outcomes.items()}
        chosen = [name for name in self.classes if evidence[name]["worth_it"]]
        if EVERYTHING in evidence and evidence[EVERYTHING]["worth_it"]:
            labels_alone = [{name: outcomes[name][case][name] if name in chosen else as_it_was(outcome)
                             for name, outcome in of_all.items()} for case, of_all in enumerate(outcomes[EVERYTHING])]
            if fmean(_gains(outcomes[EVERYTHING])) > fmean(_gains(labels_alone)) + ROUNDING:
                chosen = [EVERYTHING]
        return {"chosen": chosen, "why": "validation cases", "cases": len(self.volumes), "connectivity": CONNECTIVITY,
                "candidates": evidence}

    def _segmented(self) -> Any:
        """Yields truth and prediction of each case, class indices ``(x, y, z)``."""
        self.network.eval()
        for number in range(len(self.volumes)):
            volume = self.volumes[number]
            with torch.inference_mode():
                logits = self.inferer(volume["image"][None].to(self.device), self.network)
                found = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            yield volume["label"][0].numpy(), found

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
