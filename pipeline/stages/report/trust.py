"""What the report says about the model's own confidence: whether probabilities are true, and low Dice is foretold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.records.confidence import CONFIDENCE
from pipeline.records.quality import Foretold, foretold_cases, roc_curve
from pipeline.records.tables import CalibrationStep, CaseScore
from pipeline.stages.report.charts import Axis, axis_over

SHARE = Axis((0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


@dataclass(frozen=True)
class Trust:
    """Content of the section: `steps` of the reliability curve, cases with real and expected Dice, the ROC curve."""

    steps: list[CalibrationStep]
    voxels: int
    cases: list[Foretold]
    roc: list[tuple[float, float]]
    share_axis: Axis
    dice_axis: Axis
    training: dict[str, Any]


def trust_of(scored: Sequence[CaseScore], steps: Sequence[CalibrationStep], *, low_dice: float | None,
             bundle: Path) -> Trust:
    """Returns what there is to say; without the training's part, of older bundles, nothing of it.

    Args:
        scored: rows of the cases that count.
        steps: rows of calibration.csv of their split.
        low_dice: as in evaluation.yaml.
        bundle: the trained bundle.
    """
    cases = foretold_cases(scored)
    path = bundle / CONFIDENCE
    training = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    dices = [value for case in cases for value in (case.dice, case.expected)]
    return Trust(list(steps), sum(step.voxels for step in steps), cases, roc_curve(scored, low_dice), SHARE,
                 axis_over([*dices, 1.0]), training)
