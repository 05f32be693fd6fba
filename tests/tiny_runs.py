"""What a tiny experiment would hand over to MLflow, with a bundle whose segmentation is known by hand."""

from pathlib import Path

import pytest
from tiny_bundle import write_bundle

from pipeline.records.runs import RunContent

CURVE = {"train_loss": [(10, 1.5), (20, 1.0)]}


def enter_store_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `folder` the working directory, and with it where runs go."""
    monkeypatch.chdir(folder)
    # Set first: MLflow sets it too, and undoing the deletion alone would leave its value to later tests.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def tiny_content(folder: Path) -> RunContent:
    """Returns the content of a run, whose files are written below `folder`."""
    model = write_bundle(folder / "models/tiny", labels={"organ": 1})
    table, report = folder / "cases.csv", folder / "index.html"
    table.write_text("case_id,dice\na,0.5\n")
    report.write_text("<html></html>")
    return RunContent(
        digest="d1", tags={"git_commit": "c0ffee"}, params={"iterations": "20"}, metrics={"test.dice.mean": 0.5},
        curves=CURVE, artifacts={table: "tables", report: "report"}, table={"case_id": ["a"], "dice": [0.5]},
        dataset_name="tiny", dataset_digest="9" * 64, model_folder=model, requirements=["monai==1.6.1"],
    )
