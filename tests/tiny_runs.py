"""What a tiny experiment would hand over to MLflow, with a bundle whose segmentation is known by hand."""

import shutil
from functools import cache
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tiny_bundle import write_bundle

from pipeline.records.runs import DatasetContent, FoldContent, RunContent
from pipeline.tracking.live import IMPATIENT

CURVE = {"train_loss": [(10, 1.5), (20, 1.0)]}


def enter_store_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `folder` the working directory, and with it where runs go."""
    monkeypatch.chdir(folder)
    # Set first: MLflow sets it too, and undoing the deletion alone would leave its value to later tests.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    be_impatient(monkeypatch)
    shutil.copyfile(_empty_store(folder.parent), folder / "mlflow.db")


@cache
def _empty_store(folder: Path) -> Path:
    """Returns a store without runs, in the folder that pytest gives to all tests: MLflow takes seconds to make one."""
    path = folder / "empty-mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what `start_run` would set for the whole process."""
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    """Returns the runs of an experiment, the newest first."""
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def points_of(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    """Returns the points (step, value) of a curve."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def tiny_content(folder: Path) -> RunContent:
    """Returns the content of a run, whose files are written below `folder`."""
    model = write_bundle(folder / "models/tiny", labels={"organ": 1})
    table, report = folder / "cases.csv", folder / "index.html"
    table.write_text("case_id,dice\na,0.5\n")
    report.write_text("<html></html>")
    return RunContent(
        digest="d1", tags={"git_commit": "c0ffee"}, params={"iterations": "20"}, metrics={"test.dice.mean": 0.5},
        curves=CURVE, artifacts={table: "tables", report: "report"}, table={"case_id": ["a"], "dice": [0.5]},
        datasets=[dataset_content("training", "8" * 64, 4), dataset_content("evaluation", "9" * 64, 2)],
        model_folder=model, requirements=["monai==1.6.1"],
    )


def fold_content(folder: Path, fold: int, *, loss: float, dice: float) -> FoldContent:
    """Returns the content of a fold's run, whose validation ended with a Dice of `dice`, out of fold 0.1 less."""
    history = folder / f"history.fold{fold}.csv"
    history.write_text("iteration\n")
    return FoldContent(
        tags={"git_commit": "c0ffee"}, params={"iterations": "20", "fold": str(fold)},
        metrics={"out_of_fold.dice": dice - 0.1}, artifacts={history: "tables"},
        curves={"train_loss": [(10, loss), (20, loss / 2)], "validation_dice": [(20, dice)]},
        datasets=[dataset_content("validation", f"{fold}" * 64, 2)])


def dataset_content(context: str, digest: str, cases: int) -> DatasetContent:
    """Returns so many cases of as many patients, half of which have the label."""
    counts = {"cases": cases, "patients": cases, "cases_with_label": {"organ": cases // 2}}
    return DatasetContent(name="tiny", context=context, digest=digest, root="data/raw/tiny", modality="CT",
                          channels=["image"], labels={"organ": 1}, counts=counts)
