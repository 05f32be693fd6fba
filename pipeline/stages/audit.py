"""data/raw/<dataset> -> work/<exp>/index.json, audit.json, audit.md: which cases are sound, and who is tested on."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.records.attributes import attributes_of, read_attributes
from pipeline.records.audits import Audit, audit_as_markdown, summary_line
from pipeline.records.cases import RawDataset
from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.findings import CHECKS, finding_from, write_findings
from pipeline.records.folders import RAW, ExperimentFolders
from pipeline.records.index import ONE_CHANNEL, Index, IndexedCase, write_index
from pipeline.records.settings import DataSettings, read_data_settings
from pipeline.records.sides import WITHOUT_SIDES, declared_pairs
from pipeline.records.splits import (
    fold_by_patient,
    patients_by_case,
    refuse_impossible_folds,
    refuse_impossible_fractions,
    split_by_patient,
)
from pipeline.sources.checks import CheckedCase, check_case, orphan_finding
from pipeline.sources.layouts import read_dataset

# The names of as many channels.
CHANNELS = {1: ONE_CHANNEL, 3: ("red", "green", "blue")}


def run(experiment: str) -> None:
    """Audits the raw data of one experiment.

    `audit.json` and `audit.md` are written also where no index can be; an index from before is then removed.

    Raises:
        InputError: the settings or the dataset cannot be used, no case is sound, or a split would be empty.
    """
    folders = ExperimentFolders(experiment)
    settings = checked_settings(experiment)
    audit = audit_dataset(settings, RAW / settings.dataset, where=folders.configs / "data.yaml")
    folders.index.unlink(missing_ok=True)
    write_findings(folders.audit_json, audit.findings)
    write_text(folders.audit_report, audit_as_markdown(audit))
    print(f"{summary_line(audit)}; details in {folders.audit_report}")
    if audit.refusal is not None:
        raise audit.refusal
    assert audit.index is not None, "an audit without refusal has an index"
    write_index(folders.index, audit.index)


def audit_dataset(settings: DataSettings, root: Path, *, where: Path) -> Audit:
    """Returns the index of the sound cases, and all faults of the others.

    Args:
        settings: checked `data.yaml`.
        root: the dataset's folder, relative to the repository.
        where: the path of `data.yaml`, for messages.

    Raises:
        InputError: nothing is at `root`, it is not in the layout, or the pattern of patients does not fit.
    """
    _refuse_missing(root)
    dataset = read_dataset(settings.layout, root, settings.folders)
    patients = patients_by_case((case.case_id for case in dataset.cases), settings.patient, where=where)
    checked = refuse_other_channels(check_in_parallel(dataset), dataset)
    if settings.left_right is not None and dataset.modality not in WITHOUT_SIDES:
        checked = refuse_unknown_sides(checked, dataset)
    orphans = [orphan_finding(path, root) for path in dataset.orphans]
    findings = (*orphans, *(finding for case in checked for finding in case.findings))
    try:
        index = _index(dataset, checked, settings=settings, patients=patients, where=where)
    except InputError as error:
        file = "." if error.reason == "no-sound-case" else where.as_posix()
        return Audit(settings.dataset, len(dataset.cases), (finding_from(error, file), *findings), None, error)
    return Audit(settings.dataset, len(dataset.cases), findings, index)


def check_in_parallel(dataset: RawDataset) -> list[CheckedCase]:
    """Checks every case in as many processes as there are cores; results are in the order of the cases.

    Raises:
        InputError: ``worker-died``.
    """
    check = partial(check_case, root=dataset.root, labels=dataset.labels, are_instances=dataset.are_instances,
                    spacing_mm=dataset.spacing_mm)
    # As in `preprocess`: a server that only imported what it needs forks at once, and safely.
    context = get_context("forkserver")
    context.set_forkserver_preload(["pipeline.sources.checks"])
    with ProcessPoolExecutor(os.cpu_count(), context) as pool:
        try:
            done = pool.map(check, dataset.cases, chunksize=4)
            return list(tqdm(done, total=len(dataset.cases), desc="audit", unit="case", disable=None))
        except BrokenProcessPool as error:
            raise InputError(dataset.root, found="a reading process that was killed", wanted="enough memory",
                             remedy="close other programs or look for one huge scan", reason="worker-died") from error


def refuse_other_channels(checked: Sequence[CheckedCase], dataset: RawDataset) -> list[CheckedCase]:
    """Returns the cases, without the facts of sound ones whose images have other channels than most."""
    counts = Counter(case.channels for case in checked if case.facts is not None)
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    return _without(checked, dataset, "other-channels", wanted=f"{usual} as most",
                    found=lambda case: None if case.channels == usual else f"{case.channels} channel(s)")


def refuse_unknown_sides(checked: Sequence[CheckedCase], dataset: RawDataset) -> list[CheckedCase]:
    """Returns the cases, without the facts of those that would be mirrored along an axis that nobody knows."""
    return _without(checked, dataset, "unknown-sides", wanted="an orientation",
                    found=lambda case: None if case.has_place else "no qform and no sform")


def _without(checked: Sequence[CheckedCase], dataset: RawDataset, check: str, *, wanted: str,
             found: Callable[[CheckedCase], str | None]) -> list[CheckedCase]:
    """Returns the cases; sound ones in whose image something is `found` lose their facts and get a finding for it."""
    images = {case.case_id: case.image.relative_to(dataset.root).as_posix() for case in dataset.cases}
    faults = [None if case.facts is None else found(case) for case in checked]
    return [case if fault is None else replace(case, facts=None, findings=(
        *case.findings, CHECKS[check].finding(images[case.case_id], case.case_id, found=fault, wanted=wanted)))
        for case, fault in zip(checked, faults, strict=True)]


def checked_settings(experiment: str) -> DataSettings:
    """Returns `data.yaml` of an experiment.

    Raises:
        InputError: it cannot be read, or a value in it cannot be meant.
    """
    data_yaml = ExperimentFolders(experiment).configs / "data.yaml"
    settings = read_data_settings(experiment)
    for name in ("dataset", "layout", "patient"):
        value = getattr(settings, name)
        if not isinstance(value, str):
            raise InputError(data_yaml, found=f"`{name}: {value}`", wanted="text", remedy="put it in quotes",
                             reason="invalid-value")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", settings.dataset):
        raise InputError(data_yaml, found=f"`dataset: {settings.dataset}`", wanted=f"a folder's name below {RAW}",
                         remedy="use letters, digits, `_`, `-` and `.`", reason="odd-name")
    refuse_impossible_folds(settings.folds, where=data_yaml)
    refuse_impossible_fractions(settings.split, where=data_yaml, folds=settings.folds)
    return settings


def _refuse_missing(root: Path) -> None:
    if not root.is_dir():
        is_phantom = root.name.startswith("phantom_")
        command = f"phantom --dataset {root.name}" if is_phantom else f"fetch {root.name}"
        hint = "or let `dvc repro` do it" if is_phantom else "(with `--from PATH` if you have it)"
        raise InputError(root, found="no such folder", wanted="the experiment's raw data", reason="missing-data",
                         remedy=f"run `python -m pipeline {command}` {hint}")


def _index(dataset: RawDataset, checked: Sequence[CheckedCase], *, settings: DataSettings, patients: dict[str, str],
           where: Path) -> Index:
    left_right = declared_pairs(settings.left_right, dataset.labels, where=where)
    sound = {case.case_id: case.facts for case in checked if case.facts is not None}
    if not sound:
        raise InputError(dataset.root, found=f"no sound case among {len(checked)} listed", wanted="at least three",
                         remedy="mend the faults in the audit's report", reason="no-sound-case")
    places = _places([patients[case_id] for case_id in sound], settings, where=where)
    table = read_attributes(dataset.root, settings.attributes, where=where)
    cases = (IndexedCase(case_id=case_id, patient=patients[case_id], **places[patients[case_id]], **vars(facts),
                         attributes=attributes_of(case_id, patients[case_id], table, settings.attributes))
             for case_id, facts in sorted(sound.items()))
    used = [case for case in checked if case.facts is not None]
    return Index(settings.dataset, dataset.root.as_posix(), dataset.modality, dataset.licence, dataset.labels,
                 tuple(cases), left_right, CHANNELS[used[0].channels], are_pictures=dataset.are_pictures,
                 are_instances=dataset.are_instances, has_spacing=all(case.has_spacing for case in used))


def _places(patients: Sequence[str], settings: DataSettings, *, where: Path) -> dict[str, dict[str, Any]]:
    """Returns the split of each patient and, where the experiment has folds, the fold."""
    if settings.folds is None:
        return {patient: {"split": split}
                for patient, split in split_by_patient(patients, settings.split, where=where).items()}
    folds = fold_by_patient(patients, settings.split, folds=settings.folds, where=where)
    return {patient: {"split": "test" if fold is None else "train", "fold": fold} for patient, fold in folds.items()}
