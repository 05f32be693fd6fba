"""Who belongs to which patient, and which patients are trained on, validated on and tested on."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.records.errors import InputError
from pipeline.records.index import SPLITS, Split
from pipeline.records.settings import SplitSettings


def patients_by_case(case_ids: Iterable[str], pattern: str, *, where: Path) -> dict[str, str]:
    """Returns the patient of each case: the first group of `pattern`, searched for in the case id.

    Args:
        case_ids: of all cases.
        pattern: a regular expression with a group.
        where: the file that holds the pattern, for messages.

    Raises:
        InputError: ``invalid-pattern`` (no regular expression, no group), ``no-patient`` (no match, or an empty one).
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(where, found=f"`patient: {pattern}` ({error})", wanted="a regular expression: `^(p\\d+)_`",
                         remedy="mend the pattern", reason="invalid-pattern") from error
    if expression.groups < 1:
        raise InputError(where, found=f"`patient: {pattern}` without a group", wanted="one: `^(p\\d+)_`",
                         remedy="put the part that names the patient in parentheses", reason="invalid-pattern")
    found = {case_id: expression.search(case_id) for case_id in case_ids}
    patients = {case_id: match.group(1) for case_id, match in found.items() if match and match.group(1)}
    unmatched = sorted(found.keys() - patients.keys())
    if unmatched:
        # Not a finding that leaves cases out: a wrong pattern would quietly shrink the dataset.
        raise InputError(where, found=f"`patient: {pattern}` finds none in {len(unmatched)} of {len(found)} case ids "
                         f"(`{unmatched[0]}`)", wanted="a patient in each", reason="no-patient",
                         remedy="mend the pattern, or use `(.+)` where each case is a patient")
    return patients


def refuse_impossible_fractions(settings: SplitSettings, *, where: Path) -> None:
    """Raises `InputError` unless both fractions are above 0, leave something to train on, and the seed is whole."""
    for name, value in (("validation", settings.validation), ("test", settings.test)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise InputError(where, found=f"`split: {name}: {value}`", wanted="a number above 0 and below 1",
                             remedy="give the fraction of patients, such as 0.2", reason="invalid-fraction")
    if settings.validation + settings.test >= 1:
        raise InputError(where, found=f"fractions that sum to {settings.validation + settings.test:g}",
                         wanted="less than 1", remedy="leave patients for training", reason="invalid-fraction")
    if isinstance(settings.seed, bool) or not isinstance(settings.seed, int):
        raise InputError(where, found=f"`split: seed: {settings.seed}`", wanted="a whole number", remedy="use 0",
                         reason="invalid-seed")


def split_by_patient(patients: Iterable[str], settings: SplitSettings, *, where: Path) -> dict[str, Split]:
    """Returns the split of each patient; the same for the same patients and seed, in whatever order they come.

    Patients are ranked by a digest of seed and name, so adding one moves few others. Test and validation each get their
    fraction of patients, rounded, one at least; training gets the rest.

    Raises:
        InputError: ``empty-split`` where a split would have no patient.
    """
    ranked = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{settings.seed} {patient}".encode()).digest())
    test = max(1, round(settings.test * len(ranked)))
    validation = max(1, round(settings.validation * len(ranked)))
    if test + validation >= len(ranked):
        raise InputError(where, found=f"{len(ranked)} patient(s), too few for a split of {settings.validation:g} "
                         f"validation and {settings.test:g} test", wanted=f"one or more in each of {', '.join(SPLITS)}",
                         remedy="add patients, or lower the fractions", reason="empty-split")
    splits: dict[str, Split] = {}
    for rank, patient in enumerate(ranked):
        splits[patient] = "test" if rank < test else "validation" if rank < test + validation else "train"
    return splits
