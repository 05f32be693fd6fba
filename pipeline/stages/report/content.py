"""What the templates are filled with."""

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.imaging.comparisons import AGREEMENT, PREDICTION, TRUTH
from pipeline.records.bundles import WEIGHTS, batches_of_training, history_of_member, members_of, recorded_digests
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import Index, main_split, read_index
from pipeline.records.lineage import package_versions
from pipeline.records.model_card import card_facts
from pipeline.records.plan import COMMENTS
from pipeline.records.postprocessing import postprocessing_of
from pipeline.records.schedule import COMMENTS as SCHEDULE_COMMENTS
from pipeline.records.settings import EvaluationSettings, read_evaluation_settings
from pipeline.records.statistics import RESAMPLES
from pipeline.records.strict_yaml import read_yaml
from pipeline.records.summaries import rank_cases, summarise_group, summarise_label, verdict
from pipeline.records.tables import CalibrationStep, CaseScore, LesionScore, TrainingPoint, read_metrics, read_table
from pipeline.stages.report.charts import agreement_of, axis_over, curves_of, recall_by_size
from pipeline.stages.report.galleries import galleries_of
from pipeline.stages.report.trust import trust_of
from pipeline.stages.report.wording import units_of

SHOWN_OF_SCHEDULE = ("iterations", "epochs", "validate_every", "batch_size", "accumulation", "precision",
                     "channels_last", "compile", "threads")
SUBGROUP_NAMES = {"fold": "Fold", "orientation": "Axes point", "largest_spacing_mm": "Largest spacing, mm",
                  "spacing_x_mm": "Spacing along x, mm", "spacing_y_mm": "Spacing along y, mm",
                  "spacing_z_mm": "Spacing along z, mm", "truth_ml": "Size of what is sought"}
# The audit's own report holds the rest.
MOST_FINDINGS = 50
# Beyond so many the pictures of every case are folded, so that what comes below them is found, and paper is saved.
MOST_OPEN = 30


def collect_content(experiment: str, folders: ExperimentFolders) -> dict[str, Any]:
    """Returns what both templates are filled with."""
    index = read_index(folders.index)
    settings = read_evaluation_settings(experiment)
    scores = read_table(folders.case_table, CaseScore)
    main, metrics, plan = main_split(index), read_metrics(folders.metrics), _plan_and_schedule(folders)
    postprocessing = postprocessing_of(folders.bundle)
    histories = [history_of_member(folders.bundle, fold) for fold in members_of(folders.bundle / WEIGHTS)]
    return {
        "experiment": experiment, "index": index, "units": units_of(index),
        "metrics": metrics, "test": metrics[main], "main": main,
        "kind": "test" if main == "test" else "out-of-fold",
        "rows": sorted(scores, key=lambda row: (math.isnan(row.dice), row.dice, row.case_id, row.label)),
        **_content_of_scored(index, settings, folders, scores),
        **curves_of(read_table(folders.history, TrainingPoint),
                    [read_table(path, TrainingPoint) for path in histories]),
        "groups": [summarise_group(name, cases, index) for name, cases in index.groups.items()], "facts": _facts(index),
        "plan": plan, "plan_comments": {**COMMENTS, **SCHEDULE_COMMENTS},
        "card": card_facts(index, plan, metrics, postprocessing),
        "findings": json.loads(folders.audit_json.read_text(encoding="utf-8")), "most_findings": MOST_FINDINGS,
        "weights_sha256": recorded_digests(folders.bundle), "postprocessing": postprocessing,
        "packages": {"Python": platform.python_version(), **package_versions()},
    }


def _plan_and_schedule(folders: ExperimentFolders) -> dict[str, Any]:
    """Returns both as one: the schedule fills what the plan leaves open, and the training has the last word."""
    schedule = {name: value for name, value in read_yaml(folders.schedule).items() if name in SHOWN_OF_SCHEDULE}
    return {**read_yaml(folders.plan), **schedule, **batches_of_training(folders.bundle)}


def _content_of_scored(index: Index, settings: EvaluationSettings, folders: ExperimentFolders,
                       scores: Sequence[CaseScore]) -> dict[str, Any]:
    """Returns what is said about the test cases, or where there are none about those of the folds."""
    main = main_split(index)
    scored = [row for row in scores if row.split == main]
    ranked = rank_cases(scored)
    labels = [summarise_label(label, scored) for label in index.labels]
    units = units_of(index)
    steps = [step for step in read_table(folders.calibration_table, CalibrationStep) if step.split == main]
    lesions = [lesion for lesion in read_table(folders.lesion_table, LesionScore) if lesion.split == main]
    missed = sorted((lesion for lesion in lesions if not lesion.found), key=lambda lesion: -lesion.diameter_mm)
    galleries = galleries_of(ranked, missed, everything=rank_cases(scores), index=index,
                             predictions=folders.predictions, settings=settings)
    defined = sorted((row for row in scored if not math.isnan(row.dice)), key=lambda row: row.dice)
    return {
        "ranked": ranked, "labels": labels, "lesions": lesions, "missed": missed,
        "regions": [summarise_label(region, scored) for region in settings.regions],
        "parts_of_regions": {name: ", ".join(parts) for name, parts in settings.regions.items()},
        "agreements": [found for label in index.labels if (found := agreement_of(label, scored, units)) is not None],
        "trust": trust_of(scored, steps, low_dice=settings.low_dice, bundle=folders.bundle),
        "subgroup_names": SUBGROUP_NAMES,
        "verdict": verdict(labels, ranked, found=len(lesions) - len(missed), lesions=len(lesions),
                           kind="test" if main == "test" else "out-of-fold"),
        "dice_groups": [(summary, [row for row in defined if row.label == summary.label]) for summary in labels],
        "dice_axis": axis_over([row.dice for row in defined] + [1.0]),
        "sizes": {label: recall_by_size([lesion for lesion in lesions if lesion.label == label],
                                        settings.lesion_diameters_mm, units)
                  for label in settings.lesion_labels},
        "resamples": RESAMPLES, "tolerances": _tolerances(index, settings),
        "is_flat": all(case.shape[2] == 1 for case in index.cases),
        "outline_colours": {"truth": TRUTH, "prediction": PREDICTION, "both at one place": AGREEMENT},
        "losses": _losses(folders.predictions / "summary.json", index),
        "galleries": galleries, "most_open": MOST_OPEN,
        "anchors": {picture.case_id: f"picture-{n}" for n, picture in enumerate(galleries.every_case, start=1)},
    }


def _tolerances(index: Index, settings: EvaluationSettings) -> str:
    """Returns the tolerance of the surface Dice in words, label by label where they differ."""
    unit = units_of(index).length
    by_label = {label: f"{settings.tolerance_mm(label):g} {unit}" for label in index.labels}
    if len(set(by_label.values())) == 1:
        return next(iter(by_label.values()))
    return ", ".join(f"{tolerance} ({label})" for label, tolerance in by_label.items())


def _losses(summary: Path, index: Index) -> dict[str, str]:
    """Returns why inference lost a scan, by case; the summary knows scans by their files' names."""
    scans = json.loads(summary.read_text(encoding="utf-8"))["scans"]
    messages = {scan["input"]: scan["message"] for scan in scans if scan["status"] == "failed"}
    names = {case.case_id: Path(case.image).name for case in index.cases}
    return {case_id: messages[name] for case_id, name in names.items() if name in messages}


def _facts(index: Index) -> dict[str, str]:
    """Returns what the geometry of all cases has in common, in words."""

    def ranges(attribute: str) -> str:
        columns = zip(*(getattr(case, attribute) for case in index.cases), strict=True)
        ends = [(f"{min(column):g}", f"{max(column):g}") for column in columns]
        return " × ".join(low if low == high else f"{low} to {high}" for low, high in ends)

    if index.are_pictures:
        spacing = f"{ranges('spacing_mm')} mm" if index.has_spacing else "not stated"
        return {"Shape": f"{ranges('shape')} pixels", "Channels": ", ".join(index.channels), "Spacing": spacing}
    orientations = sorted({case.orientation for case in index.cases})
    return {"Shape": f"{ranges('shape')} voxels", "Spacing": f"{ranges('spacing_mm')} mm",
            "Axes point": ", ".join(orientations)}
