"""Tables of scores with nothing but what a comparison reads, for tests of paired runs."""

import math

from pipeline.records.tables import CaseScore, Status


def score(case_id: str, dice: float, *, label: str = "organ", patient: str | None = None, recall: float | None = None,
          hd95_mm: float = 1.0, is_region: bool = False, status: Status = "scored",
          truth_ml: float = 10.0, expected_dice: float = math.nan, low_confidence: bool = False) -> CaseScore:
    """Returns a test row; its recall is its Dice if nothing else is said, and each case is a patient of its own."""
    return CaseScore(case_id, patient or case_id, "test", label, is_region, dice, dice,
                     dice if recall is None else recall,
                     dice, 1.0, hd95_mm, hd95_mm, dice, truth_ml, truth_ml, 0.0, 1, 0, expected_dice, low_confidence,
                     status)


def absent(case_id: str, *, label: str = "organ") -> CaseScore:
    """Returns the row of a label that is neither there nor predicted."""
    return score(case_id, math.nan, label=label, truth_ml=0.0, status="both empty")
