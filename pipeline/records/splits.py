"""Who belongs to which patient, and which patients are trained on, validated on and tested on."""

import hashlib
import re
from collections import Counter
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


def refuse_impossible_fractions(settings: SplitSettings, *, where: Path, folds: int | None = None) -> None:
    """Raises `InputError` unless both fractions are above 0, leave something to train on, and the seed is whole.

    With folds `test` may be 0, and `validation` counts for nothing.
    """
    fractions = {"validation": settings.validation, "test": settings.test} if folds is None else {"test": settings.test}
    for name, value in fractions.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not (0 < value < 1 or (folds is not None and value == 0)):
            least = "above 0" if folds is None else "0 or more"
            raise InputError(where, found=f"`split: {name}: {value}`", wanted=f"a number {least} and below 1",
                             remedy="give the fraction of patients, such as 0.2", reason="invalid-fraction")
    if sum(fractions.values()) >= 1:
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
    ranked = _ranked(patients, settings.seed)
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


def refuse_impossible_folds(folds: object, *, where: Path) -> None:
    """Raises `InputError` unless `folds` is None or a whole number from 2 on."""
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or folds < 2):
        raise InputError(where, found=f"`folds: {folds}`", wanted="a whole number, 2 or more", reason="invalid-folds",
                         remedy="write for instance 5, or remove the line for one training")


def fold_by_patient(patients: Iterable[str], settings: SplitSettings, *, folds: int, where: Path
                    ) -> dict[str, int | None]:
    """Returns the fold of each patient, from 0, or None for those who are tested on, the same as without folds.

    Patients with many cases are placed first, each in the fold with the fewest cases so far: folds differ by no more
    cases than one patient has.

    Args:
        patients: of each case, so that a patient with several scans comes as often.
        settings: the share of patients to test on, which may be 0, and the seed.
        folds: how many.
        where: the file that says so, for messages.

    Raises:
        InputError: ``too-few-patients``.
    """
    cases = Counter(patients)
    ranked = _ranked(cases, settings.seed)
    tested = max(1, round(settings.test * len(ranked))) if settings.test else 0
    shared = ranked[tested:]
    if len(shared) < folds:
        beside = f" beside {tested} to test on" if tested else ""
        raise InputError(where, found=f"{len(shared)} patient(s){beside}",
                         wanted=f"one or more in each of {folds} folds",
                         remedy="add patients, or lower `folds` or `split: test`", reason="too-few-patients")
    filled = [0] * folds
    chosen: dict[str, int | None] = dict.fromkeys(ranked[:tested])
    for patient in sorted(shared, key=lambda patient: -cases[patient]):
        fold = filled.index(min(filled))
        filled[fold] += cases[patient]
        chosen[patient] = fold
    return chosen


def _ranked(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(set(patients), key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
