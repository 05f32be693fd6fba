"""What charts are drawn from: axes with round ticks, curves, counts by size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from pipeline.records.statistics import Interval, share_interval
from pipeline.records.summaries import size_class, size_classes
from pipeline.records.tables import CaseScore, LesionScore, TrainingPoint
from pipeline.stages.report.wording import Units

# Standard deviations, between which 95% of a normal distribution lie.
LIMITS = 1.96


@dataclass(frozen=True)
class Axis:
    """A chart's axis: round numbers as ticks, and where values lie between its ends (0 to 1)."""

    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Returns 0 at the first tick and 1 at the last."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def axis_over(values: list[float], most_ticks: int = 6) -> Axis:
    """Returns an axis with ticks at round numbers (1, 2 or 5 times a power of ten) that spans the finite values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span))
    for step in (power * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first < most_ticks:
            break
    return Axis(tuple(round(step * number, 10) for number in range(first, last + 1)))


def curves_of(points: tuple[TrainingPoint, ...], folds: list[tuple[TrainingPoint, ...]]) -> dict[str, Any]:
    """Returns the curves as points (iteration, value) with their axes; of an ensemble the mean and the folds' own."""

    def curve(name: str, rows: tuple[TrainingPoint, ...]) -> list[tuple[int, float]]:
        return [(row.iteration, getattr(row, name)) for row in rows if math.isfinite(getattr(row, name))]

    loss, dice = curve("train_loss", points), curve("validation_dice", points)
    losses, dices = ([curve(name, rows) for rows in folds] for name in ("train_loss", "validation_dice"))
    return {
        "iteration_axis": axis_over([0.0] + [float(point.iteration) for point in points]),
        "loss_curve": loss, "loss_axis": axis_over([value for one in (loss, *losses) for _, value in one]),
        "best_validation": max(dice, key=lambda point: point[1], default=None),
        "dice_curve": dice, "dice_curve_axis": axis_over([value for one in (dice, *dices) for _, value in one]),
        "loss_of_folds": losses, "dice_of_folds": dices,
    }


@dataclass(frozen=True)
class SizeClass:
    """How many lesions of one class of sizes there are and are found, with the 95% interval of the share."""

    name: str
    found: int
    count: int
    interval: Interval


def recall_by_size(lesions: list[LesionScore], edges_mm: tuple[float, ...], units: Units) -> list[SizeClass]:
    """Returns the classes that have lesions, smallest first."""
    rows = []
    for name in size_classes(edges_mm):
        group = [lesion.found for lesion in lesions if size_class(lesion.diameter_mm, edges_mm) == name]
        if group:
            shown = name.replace("mm", units.length)
            rows.append(SizeClass(shown, sum(group), len(group), share_interval(sum(group), len(group))))
    return rows


@dataclass(frozen=True)
class Agreement:
    """Predicted against true volumes of one label: a point (case, mean of both, predicted minus true) for each case.

    `volumes` are the same cases as (case, true, predicted), with one axis for both. `low` and `high` are the 95% limits
    of agreement: 1.96 standard deviations from the mean difference `bias`; NaN of fewer than two cases. Volumes are in
    the report's own unit.

    Source: Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """

    label: str
    points: list[tuple[str, float, float]]
    bias: float
    low: float
    high: float
    x_axis: Axis
    y_axis: Axis
    volumes: list[tuple[str, float, float]]
    volume_axis: Axis


def agreement_of(label: str, scores: Sequence[CaseScore], units: Units) -> Agreement | None:
    """Returns the agreement over the cases with the label in truth or prediction; lost scans have no prediction."""
    rows = [row for row in scores if row.label == label and row.status not in ("failed", "both empty")]
    if not rows:
        return None
    volumes = [(row.case_id, units.a_ml * row.truth_ml, units.a_ml * row.prediction_ml) for row in rows]
    points = [(case, (true + predicted) / 2, predicted - true) for case, true, predicted in volumes]
    differences = [difference for _, _, difference in points]
    bias = fmean(differences)
    spread = LIMITS * stdev(differences) if len(rows) > 1 else math.nan
    seen = [value for value in (*differences, bias - spread, bias + spread, 0.0) if math.isfinite(value)]
    return Agreement(label, points, bias, bias - spread, bias + spread, axis_over([mean for _, mean, _ in points]),
                     axis_over(seen), volumes, axis_over([size for _, *both in volumes for size in both]))
