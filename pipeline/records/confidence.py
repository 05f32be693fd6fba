"""What training found out about a model's confidence on the validation cases, as the bundle keeps it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# In the bundle: the temperature, and how well the validation cases were expected to be segmented.
CONFIDENCE = Path("docs/confidence.json")
# Of it, what inference is told.
OF_INFERENCE = ("temperature", "least_quality", "always_there")
# Of validation scans, how many are less sure than what is called sure.
UNSURE_SHARE = 0.05
FEWEST_CASES = 5  # to say what is usual
DECIMALS = 6


def least_quality(qualities: Sequence[float]) -> float | None:
    """Returns the expected Dice that all but `UNSURE_SHARE` of the validation scans reach; None of too few."""
    if len(qualities) < FEWEST_CASES:
        return None
    return sorted(qualities)[math.floor(UNSURE_SHARE * len(qualities))]


def joint_confidence(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the trainings of all folds found: the geometric mean of their temperatures, and all their cases."""
    temperatures = [fold["temperature"] for fold in folds]
    cases = [case for fold in folds for case in fold["cases"]]
    return {
        "temperature": round(math.prod(temperatures) ** (1 / len(temperatures)), DECIMALS),
        "temperatures": temperatures,
        "least_quality": least_quality([case["quality"] for case in cases if case["quality"] is not None]),
        "always_there": [label for label in folds[0]["always_there"]
                         if all(label in fold["always_there"] for fold in folds)],
        "cases": cases,
    }
