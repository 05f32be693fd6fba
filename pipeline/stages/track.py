"""all of it -> work/<exp>/mlflow_run.json: a complete MLflow run and the registered model."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline import tracking
from pipeline.records.bundles import (
    WEIGHTS,
    batches_of_training,
    history_of_member,
    joint_digest,
    members_of,
    recorded_digests,
)
from pipeline.records.files import sha256_of_file, sha256_of_text, write_json
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import read_index
from pipeline.records.lineage import git_commit, lineage_of_training
from pipeline.records.runs import RunContent

STEPS = ("iteration", "epoch")  # columns of history.csv that are no curves


def run(experiment: str) -> None:
    """Completes the experiment's MLflow run."""
    folders = ExperimentFolders(experiment)
    lineage = lineage_of_training(experiment)
    run_id = tracking.complete_run(experiment, lineage=lineage, content=collect_content(folders))
    # No id in the file: it is an output of DVC, and the same state has another id in another store.
    write_json(folders.tracked_run, {"experiment": experiment, "lineage": lineage})
    print(f"track: run {run_id} in {tracking.printable_store()}")


def collect_content(folders: ExperimentFolders) -> RunContent:
    """Gathers what the stages wrote into the content of one run."""
    index = read_index(folders.index)
    # What the plan leaves to the schedule stands there; how long trials took is no parameter.
    plan = {name: value for path in (folders.plan, folders.schedule)
            for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items() if name != "measured"}
    plan |= batches_of_training(folders.bundle)
    metadata = json.loads((folders.model / "configs/metadata.json").read_text(encoding="utf-8"))
    artifacts = _artifacts(folders)
    packages = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"],
                **metadata["required_packages_version"]}
    return RunContent(
        digest=sha256_of_text("".join(sha256_of_file(file) for file in artifacts)),
        tags={"data_digest": index.data_digest, "git_commit": git_commit(),
              "weights_sha256": joint_digest(list(recorded_digests(folders.bundle).values()))},
        params={name: text[:6000] for name, text in flatten(plan)},
        metrics={name: float(text) for name, text in flatten(_numbers(folders.metrics))},
        curves=read_curves(folders.history) | curves_of_folds(folders.bundle),
        artifacts=artifacts,
        table=_columns(folders.case_table),
        dataset_name=index.dataset,
        dataset_digest=index.data_digest,
        model_folder=folders.model,
        requirements=[f"{name}=={version}" for name, version in packages.items()],
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
    return {tracking.metric_name(name): [(int(row["iteration"]), float(row[name])) for row in rows if row[name]]
            for name in rows[0] if name not in STEPS} if rows else {}


def curves_of_folds(bundle: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the curves of each member of an ensemble, called as its training called them; none for other bundles."""
    return {tracking.curve_of_fold(name, fold): points for fold in members_of(bundle / WEIGHTS)
            for name, points in read_curves(history_of_member(bundle, fold)).items()}


def _numbers(metrics: Path) -> dict[str, Any]:
    """MLflow takes no null, and reads some characters of label names as path separators."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {tracking.metric_name(key): clean(item) for key, item in value.items() if item is not None}
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
              folders.case_table, folders.lesion_table, folders.metrics, folders.history]
    report = sorted(path for path in folders.report.iterdir() if path.is_file())
    pictures = sorted(folders.predictions.glob("*/preview.png"))
    named = dict.fromkeys(tables, "tables") | dict.fromkeys(report, "report")
    return named | {path: f"pictures/{path.parent.name}" for path in pictures}
