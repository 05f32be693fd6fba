from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import tracking
from pipeline.records.errors import InputError
from pipeline.records.runs import RunContent

CURVE = {"train_loss": [(10, 1.5), (20, 1.0)]}


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContent:
    """What a tiny experiment would hand over, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    # Set first: MLflow sets it too, and undoing the deletion alone would leave its value to later tests.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    model = tmp_path / "models/tiny"
    model.mkdir(parents=True)
    (model / "weights").write_text("w")
    table = tmp_path / "cases.csv"
    table.write_text("case_id,dice\na,0.5\n")
    return RunContent(
        digest="d1", tags={"git_commit": "c0ffee"}, params={"iterations": "20"}, metrics={"test.dice.mean": 0.5},
        curves=CURVE, artifacts={table: "tables"}, table={"case_id": ["a"], "dice": [0.5]}, dataset_name="tiny",
        dataset_digest="9" * 64, model_folder=model, requirements=["monai==1.6.1"],
    )


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=tracking.store_uri())


def runs(experiment: str) -> list[str]:
    found = client().get_experiment_by_name(experiment)
    return [run.info.run_id for run in client().search_runs([found.experiment_id])]


def test_a_run_is_complete_and_tracking_again_adds_nothing(content: RunContent) -> None:
    run_id = tracking.complete_run("tiny", lineage="l1", content=content)
    assert tracking.complete_run("tiny", lineage="l1", content=content) == run_id
    assert runs("tiny") == [run_id]

    run = client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(Path("mlartifacts").absolute())
    assert run.data.params == {"iterations": "20"}
    assert run.data.metrics["test.dice.mean"] == 0.5
    assert run.data.tags["git_commit"] == "c0ffee"
    points = client().get_metric_history(run_id, "train_loss")
    assert [(point.step, point.value) for point in points] == CURVE["train_loss"]
    assert run.inputs.dataset_inputs[0].dataset.digest == "9" * 36
    tables = {item.path for item in client().list_artifacts(run_id, "tables")}
    assert tables == {"tables/cases.csv", "tables/cases.json"}
    assert [version.run_id for version in client().search_model_versions("name='segline-tiny'")] == [run_id]


def test_a_second_evaluation_replaces_the_first_even_if_it_is_worse(content: RunContent) -> None:
    tracking.complete_run("tiny", lineage="l1", content=content)
    run_id = tracking.complete_run("tiny", lineage="l1", content=replace(content, digest="d2", metrics={"dice": 0.4}))
    run_id = tracking.complete_run("tiny", lineage="l1", content=replace(content, digest="d3", metrics={"dice": 0.3}))
    assert client().get_run(run_id).data.metrics["dice"] == 0.3


def test_another_lineage_is_another_run(content: RunContent) -> None:
    first = tracking.complete_run("tiny", lineage="l1", content=content)
    second = tracking.complete_run("tiny", lineage="l2", content=replace(content, digest="d2"))
    assert set(runs("tiny")) == {first, second}


def test_live_curves_are_kept_and_only_completed(content: RunContent) -> None:
    run_id = tracking.start_run("tiny", lineage="l1")
    assert run_id is not None
    tracking.publisher_of_curves(run_id)({"train_loss": 1.5}, 10)
    assert client().get_run(run_id).info.status == "RUNNING"
    assert tracking.complete_run("tiny", lineage="l1", content=content) == run_id
    assert [point.step for point in client().get_metric_history(run_id, "train_loss")] == [10, 20]


def test_a_killed_training_leaves_no_second_run(content: RunContent) -> None:
    killed = tracking.start_run("tiny", lineage="l1")
    again = tracking.start_run("tiny", lineage="l1")
    assert again != killed
    assert runs("tiny") == [again]


def test_a_complete_run_wants_no_more_curves(content: RunContent) -> None:
    tracking.complete_run("tiny", lineage="l1", content=content)
    assert tracking.start_run("tiny", lineage="l1") is None


def test_an_unreachable_store_does_not_stop_training_but_is_named(
    content: RunContent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert tracking.start_run("tiny", lineage="l1") is None
    assert "training goes on" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"MLflow store http://127\.0\.0\.1:9: .*MLFLOW_TRACKING_URI"):
        tracking.complete_run("tiny", lineage="l1", content=content)


def test_without_a_run_curves_go_nowhere() -> None:
    tracking.publisher_of_curves(None)({"train_loss": 1.0}, 1)
    assert tracking.publisher_of_curves(None) is tracking.publisher_of_curves(None)


def test_folds_feed_one_run_and_one_that_was_killed_goes_on_in_it(content: RunContent) -> None:
    run_id = tracking.start_run("tiny", lineage="l1", fold=0)
    tracking.publisher_of_curves(run_id, 0)({"train_loss": 1.5}, 10)
    # Killed after its first point; started again it tells that first.
    assert tracking.start_run("tiny", lineage="l1", fold=0) == run_id
    publish = tracking.publisher_of_curves(run_id, 0)
    publish({"train_loss": 1.5}, 10)
    publish({"train_loss": 1.25}, 20)
    assert tracking.start_run("tiny", lineage="l1", fold=1) == run_id
    tracking.publisher_of_curves(run_id, 1)({"train_loss": 1.75}, 10)
    curves = {**CURVE, "train_loss.fold0": [(10, 1.5), (20, 1.25)], "train_loss.fold1": [(10, 1.75), (20, 1.0)]}
    assert tracking.complete_run("tiny", lineage="l1", content=replace(content, curves=curves)) == run_id
    for name, points in curves.items():
        assert [(point.step, point.value) for point in client().get_metric_history(run_id, name)] == points
    assert tracking.start_run("tiny", lineage="l1", fold=0) is None
