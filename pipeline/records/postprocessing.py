"""What training chose of postprocessing, as the bundle keeps it, and how to say it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

# In the bundle: the labels of which only the largest component is kept, and why.
LARGEST_COMPONENT = Path("docs/largest_component.json")
EVERYTHING = "*"  # stands for all labels together
UNDECIDED = "no memory to segment a validation case as a whole"  # a reason to keep all components
# The folds' numbers have six decimals. By less a gain is not more than its error: of one changed case they are equal.
ROUNDING = 2e-6


def joint_choice(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what folds that each chose on their own validation cases choose together, with the evidence of all cases.

    Fold k's mean gain over its n_k cases counts n_k / N, and so does its standard error, squared. A fold that has too
    few cases for a standard error counts by the components alone that it would lose.
    """
    first = choices[0]
    for choice in choices:
        if "candidates" not in choice:
            return choice
    evidence = {name: _joint_evidence([choice["candidates"][name] for choice in choices])
                for name in first["candidates"]}
    labels = [name for name in evidence if name != EVERYTHING]
    chosen = [name for name in labels if evidence[name]["worth_it"]]
    if EVERYTHING in evidence and evidence[EVERYTHING]["worth_it"]:
        of_labels_alone = fmean(_gain(evidence[name]) if name in chosen else 0.0 for name in labels)
        if _gain(evidence[EVERYTHING]) > of_labels_alone + ROUNDING:
            chosen = [EVERYTHING]
    return {**first, "chosen": chosen, "cases": sum(choice["cases"] for choice in choices), "candidates": evidence}


def _joint_evidence(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = {name: sum(fold[name] for fold in folds) for name in ("truth_components", "truth_components_lost")}
    known = [fold for fold in folds if "dice_before" in fold]
    total = sum(fold["cases"] for fold in known)
    numbers: dict[str, Any] = {"cases": total, **counts}
    if not known:
        return {**numbers, "worth_it": False, "why": "too few cases in every fold"}
    numbers |= {name: sum(fold["cases"] * fold[name] for fold in known) / total
                for name in ("dice_before", "dice_after")}
    error = math.hypot(*(fold["cases"] * fold["standard_error_of_gain"] for fold in known)) / total
    numbers["standard_error_of_gain"] = error
    if lost := counts["truth_components_lost"]:
        return {**numbers, "worth_it": False, "why": f"{lost} components of the truth would be lost"}
    is_clear = _gain(numbers) > error + ROUNDING
    return {**numbers, "worth_it": is_clear,
            "why": f"the gain is {'more' if is_clear else 'not more'} than its standard error"}


def _gain(evidence: dict[str, Any]) -> float:
    return float(evidence["dice_after"] - evidence["dice_before"])


def postprocessing_of(bundle: Path) -> str:
    """Returns one or two sentences on a trained bundle's largest components; nothing where it has no such file."""
    path = bundle / LARGEST_COMPONENT
    return sentence_on(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""


def sentence_on(choice: dict[str, Any]) -> str:
    """Returns what was chosen and by what, from what `LargestComponentChoice.choose` returned."""
    chosen, evidence = choice["chosen"], choice.get("candidates")
    names = "all labels together" if chosen == [EVERYTHING] else " and of ".join(chosen)
    what = f"Only the largest component of {names} is kept" if chosen else "All components of all labels are kept"
    if evidence is None:
        return f"{what}: {UNDECIDED}." if choice["why"] == UNDECIDED else f"{what}, as bundle.yaml says."
    if not chosen:
        return f"{what}: to drop any was not worth it on {choice['cases']} validation cases."
    gains = ", ".join(f"{evidence[name]['dice_before']:.4f} to {evidence[name]['dice_after']:.4f}" for name in chosen)
    return f"{what}: on {choice['cases']} validation cases, which chose it, the mean Dice rose from {gains}."
