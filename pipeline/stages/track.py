"""all of it -> work/<exp>/mlflow_run.json: a complete MLflow run and the registered model."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.records.bundles import (
    WEIGHTS,
    batches_of_training,
    history_of_member,
    joint_digest,
    members_of,
    recorded_digests,
    weights_of_member,
)
from pipeline.records.files import sha256_of_file, sha256_of_text, write_json
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import SPLITS, Index, IndexedCase, digest_of, read_index
from pipeline.records.lineage import git_commit, lineage_of_training
from pipeline.records.runs import DatasetContent, FoldContent, RunContent
from pipeline.records.summaries import mean_of_defined
from pipeline.records.tables import CaseScore, of_labels, read_table
from pipeline.tracking.complete import complete_run
from pipeline.tracking.store import metric_name, printable_store

STEPS = ("iteration", "epoch")  # columns of history.csv that are no curves


def run(experiment: str) -> None:
    """Completes the experiment's MLflow run and, with folds, the run of each of them below it."""
    folders = ExperimentFolders(experiment)
    lineage = lineage_of_training(experiment)
    run_id = complete_run(experiment, lineage=lineage, content=collect_content(folders))
    # No id in the file: it is an output of DVC, and the same state has another id in another store.
    write_json(folders.tracked_run, {"experiment": experiment, "lineage": lineage})
    print(f"track: run {run_id} in {printable_store()}")


def collect_content(folders: ExperimentFolders) -> RunContent:
    """Gathers what the stages wrote into the content of one run and those of its folds."""
    index = read_index(folders.index)
    # What the plan leaves to the schedule stands there; how long trials took is no parameter.
    plan = {name: value for path in (folders.plan, folders.schedule)
            for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items() if name != "measured"}
    plan |= batches_of_training(folders.bundle)
    metadata = json.loads((folders.model / "configs/metadata.json").read_text(encoding="utf-8"))
    artifacts = _artifacts(folders)
    params = {name: text[:6000] for name, text in flatten(plan)}
    folds = {fold: _fold_content(folders.bundle, fold, index=index, params=params, scores=out_of_fold(
        read_table(folders.case_table, CaseScore), index, fold)) for fold in members_of(folders.bundle / WEIGHTS)}
    kept = [*artifacts, *(file for fold in folds.values() for file in fold.artifacts)]
    packages = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"],
                **metadata["required_packages_version"]}
    return RunContent(
        digest=sha256_of_text("".join(sha256_of_file(file) for file in kept)),
        tags=_tags(index, joint_digest(list(recorded_digests(folders.bundle).values()))),
        params=params,
        metrics={name: float(text) for name, text in flatten(_numbers(folders.metrics))},
        curves=read_curves(folders.history),
        artifacts=artifacts,
        table=_columns(folders.case_table),
        datasets=datasets_of(index),
        model_folder=folders.model,
        requirements=[f"{name}=={version}" for name, version in packages.items()],
        folds=folds,
    )


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, text) for each leaf of nested mappings; lists are leaves.

    >>> list(flatten({"a": {"b": 1}, "c": [1, 2]}))
    [('a.b', '1'), ('c', '[1, 2]')]
    """
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def read_curves(history: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the points of each curve in `history.csv`, by iteration; empty cells are no points."""
    with history.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {metric_name(name): [(int(row["iteration"]), float(row[name])) for row in rows if row[name]]
            for name in rows[0] if name not in STEPS} if rows else {}


def datasets_of(index: Index, fold: int | None = None) -> list[DatasetContent]:
    """Returns the data of an experiment's run, or of a fold's, by what it is for; a purpose without cases is left out.

    Of an experiment with folds all cases that are not tested on are for training.
    """
    purposes = dict(zip(("training", "validation", "evaluation"), map(index.in_split, SPLITS), strict=True))
    if fold is not None:
        seen = tuple(case for case in index.in_split("train") if case.fold != fold)
        purposes = {"training": seen, "validation": tuple(case for case in index.cases if case.fold == fold)}
    return [_dataset_content(index, cases, context) for context, cases in purposes.items() if cases]


def _dataset_content(index: Index, cases: Sequence[IndexedCase], context: str) -> DatasetContent:
    counts = {"cases": len(cases), "patients": len({case.patient for case in cases}),
              "cases_with_label": {label: sum(case.label_voxels.get(label, 0) > 0 for case in cases)
                                   for label in index.labels}}
    return DatasetContent(name=index.dataset, context=context, digest=digest_of(cases), root=index.root,
                          modality=index.modality, channels=index.channels, labels=index.labels, counts=counts)


def _fold_content(
    bundle: Path, fold: int, *, index: Index, params: Mapping[str, str], scores: Mapping[str, float]
) -> FoldContent:
    """Returns the content of a fold's run; an ensemble's bundle keeps its members' curves and digests."""
    history, weights = history_of_member(bundle, fold), weights_of_member(bundle / WEIGHTS, fold).name
    return FoldContent(tags=_tags(index, recorded_digests(bundle)[weights]), params={**params, "fold": str(fold)},
                       metrics=scores, curves=read_curves(history), artifacts={history: "tables"},
                       datasets=datasets_of(index, fold))


def out_of_fold(rows: Sequence[CaseScore], index: Index, fold: int) -> dict[str, float]:
    """Returns the mean Dice and recall of the cases that a fold's network did not see, as metrics.json takes means.

    What is undefined is left out.
    """
    unseen = {case.case_id for case in index.cases if case.fold == fold}
    own = [row for row in of_labels(rows) if row.case_id in unseen]
    means = {f"out_of_fold.{name}": mean_of_defined(
        mean_of_defined(getattr(row, name) for row in own if row.label == label) for label in index.labels)
        for name in ("dice", "recall")}
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def _tags(index: Index, weights_sha256: str) -> dict[str, str]:
    return {"data_digest": index.data_digest, "git_commit": git_commit(), "weights_sha256": weights_sha256}


def _numbers(metrics: Path) -> dict[str, Any]:
    """MLflow takes no null, and reads some characters of label names as path separators."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {metric_name(key): clean(item) for key, item in value.items() if item is not None}
            return {key: item for key, item in kept.items() if not isinstance(item, str)}
        return value

    cleaned: dict[str, Any] = clean(json.loads(metrics.read_text(encoding="utf-8")))
    return cleaned


def _columns(table: Path) -> dict[str, list[str]]:
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    return {name: [row[name] for row in rows] for name in reader.fieldnames or []}


def _artifacts(folders: ExperimentFolders) -> dict[Path, str]:
    tables = [folders.index, folders.plan, folders.schedule, folders.fingerprint, folders.audit_json,
              folders.case_table, folders.lesion_table, folders.calibration_table, folders.metrics, folders.history]
    report = sorted(path for path in folders.report.iterdir() if path.is_file())
    pictures = sorted(folders.predictions.glob("*/preview.png"))
    named = dict.fromkeys(tables, "tables") | dict.fromkeys(report, "report")
    return named | {path: f"pictures/{path.parent.name}" for path in pictures}
