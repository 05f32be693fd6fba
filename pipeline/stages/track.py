"""all of it -> work/<exp>/mlflow_run.json: a complete MLflow run and the registered model."""

import csv
import json
from collections.abc import Iterator, Mapping
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
from pipeline.records.index import read_index
from pipeline.records.lineage import git_commit, lineage_of_training
from pipeline.records.runs import FoldContent, RunContent
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
    artifacts, metrics = _artifacts(folders), _numbers(folders.metrics)
    params = {name: text[:6000] for name, text in flatten(plan)}
    # Of the state, whatever run has them.
    tags = {"data_digest": index.data_digest, "git_commit": git_commit()}
    folds = folds_of(folders.bundle, metrics, tags=tags, params=params)
    kept = [*artifacts, *(file for fold in folds.values() for file in fold.artifacts)]
    packages = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"],
                **metadata["required_packages_version"]}
    return RunContent(
        digest=sha256_of_text("".join(sha256_of_file(file) for file in kept)),
        tags=tags | {"weights_sha256": joint_digest(list(recorded_digests(folders.bundle).values()))},
        params=params,
        metrics={name: float(text) for name, text in flatten(metrics)},
        curves=read_curves(folders.history),
        artifacts=artifacts,
        table=_columns(folders.case_table),
        dataset_name=index.dataset,
        dataset_digest=index.data_digest,
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


def folds_of(
    bundle: Path, metrics: Mapping[str, Any], *, tags: Mapping[str, str], params: Mapping[str, str]
) -> dict[int, FoldContent]:
    """Returns the content of each fold's run, by the members of an ensemble; none for other bundles.

    Args:
        bundle: the trained one, which keeps its members' curves.
        metrics: of the evaluation, where the out-of-fold scores by fold are among the subgroups.
        tags: of all of them, as `params`.
    """
    digests = recorded_digests(bundle)
    return {fold: FoldContent(
        tags={**tags, "weights_sha256": digests[weights_of_member(bundle / WEIGHTS, fold).name]},
        params={**params, "fold": str(fold)}, metrics=out_of_fold(metrics, fold),
        curves=read_curves(history_of_member(bundle, fold)), artifacts={history_of_member(bundle, fold): "tables"},
    ) for fold in members_of(bundle / WEIGHTS)}


def out_of_fold(metrics: Mapping[str, Any], fold: int) -> dict[str, float]:
    """Returns the mean scores of the cases that a fold's network did not see; none where they were not asked for."""
    groups = metrics.get("validation", {}).get("subgroups", {}).get("fold", {})
    scores = groups.get(str(fold), {})
    return {f"out_of_fold.{name}": float(scores[name]["mean"]) for name in ("dice", "recall")
            if "mean" in scores.get(name, {})}


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
              folders.case_table, folders.lesion_table, folders.metrics, folders.history]
    report = sorted(path for path in folders.report.iterdir() if path.is_file())
    pictures = sorted(folders.predictions.glob("*/preview.png"))
    named = dict.fromkeys(tables, "tables") | dict.fromkeys(report, "report")
    return named | {path: f"pictures/{path.parent.name}" for path in pictures}
