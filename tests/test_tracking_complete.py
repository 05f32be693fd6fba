import json
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.data.schema import TensorDatasetSchema
from tiny_runs import CURVE, enter_store_of_its_own, fold_content, points_of, runs_of, tiny_content

from pipeline.records.errors import InputError
from pipeline.records.runs import RunContent
from pipeline.tracking import live
from pipeline.tracking.complete import complete_run, over_folds
from pipeline.tracking.store import FOLD, LINEAGE, PARENT, find_runs, main_run, store_uri, without_password


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContent:
    """What a tiny experiment would hand over, in a working directory of its own."""
    enter_store_of_its_own(tmp_path, monkeypatch)
    return tiny_content(tmp_path)


@pytest.fixture
def folds(content: RunContent, tmp_path: Path) -> RunContent:
    """The same of one with two folds."""
    return replace(content, folds={0: fold_content(tmp_path, 0, loss=1.0, dice=0.6),
                                   1: fold_content(tmp_path, 1, loss=2.0, dice=0.8)})


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def ids(experiment: str) -> list[str]:
    return [run.info.run_id for run in runs_of(client(), experiment)]


def test_a_run_is_complete_and_tracking_again_adds_nothing(content: RunContent) -> None:
    run_id = complete_run("tiny", lineage="l1", content=content)
    assert complete_run("tiny", lineage="l1", content=content) == run_id
    assert ids("tiny") == [run_id]

    run = client().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(Path("mlartifacts").absolute())
    assert run.data.params == {"iterations": "20"}
    assert run.data.metrics["test.dice.mean"] == 0.5
    assert run.data.tags["git_commit"] == "c0ffee"
    assert points_of(client(), run_id, "train_loss") == CURVE["train_loss"]
    tables = {item.path for item in client().list_artifacts(run_id, "tables")}
    assert tables == {"tables/cases.csv", "tables/cases.json"}
    assert [version.run_id for version in client().search_model_versions("name='segline-tiny'")] == [run_id]


def test_the_data_is_kept_as_mlflows_datasets_by_what_it_is_for(content: RunContent) -> None:
    complete_run("tiny", lineage="l1", content=content)
    run_id = complete_run("tiny", lineage="l1", content=replace(content, digest="d2"))
    inputs = {one.tags[0].value: one for one in client().get_run(run_id).inputs.dataset_inputs}
    assert inputs.keys() == {"training", "evaluation"}
    tested = inputs["evaluation"]
    assert (tested.dataset.name, tested.dataset.digest) == ("tiny", "9" * 36)
    assert {tag.key: tag.value for tag in tested.tags} == {
        "mlflow.data.context": "evaluation", "segline.data_digest": "9" * 64}
    assert mlflow.data.get_source(tested).uri == "data/raw/tiny"
    assert json.loads(tested.dataset.profile) == {
        "cases": 2, "patients": 2, "cases_with_label": {"organ": 1}, "modality": "CT", "labels": {"organ": 1}}
    schema = TensorDatasetSchema.from_dict(json.loads(tested.dataset.schema))
    assert [(spec.name, spec.type, spec.shape) for spec in (*schema.features, *schema.targets)] == [
        ("image", "float32", (-1, -1, -1)), ("label", "uint8", (-1, -1, -1))]


def test_a_second_evaluation_replaces_the_first_even_if_it_is_worse(content: RunContent) -> None:
    complete_run("tiny", lineage="l1", content=content)
    run_id = complete_run("tiny", lineage="l1", content=replace(content, digest="d2", metrics={"dice": 0.4}))
    run_id = complete_run("tiny", lineage="l1", content=replace(content, digest="d3", metrics={"dice": 0.3}))
    assert client().get_run(run_id).data.metrics["dice"] == 0.3


def test_another_lineage_is_another_run(content: RunContent) -> None:
    first = complete_run("tiny", lineage="l1", content=content)
    second = complete_run("tiny", lineage="l2", content=replace(content, digest="d2"))
    assert set(ids("tiny")) == {first, second}


def test_live_curves_are_kept_and_only_completed(content: RunContent) -> None:
    run_id = live.start_run("tiny", lineage="l1")
    assert run_id is not None
    with live.feeding(run_id):
        live.publisher_of_curves(run_id)({"train_loss": 1.5}, 10)
    assert complete_run("tiny", lineage="l1", content=content) == run_id
    assert points_of(client(), run_id, "train_loss") == CURVE["train_loss"]


def test_a_complete_run_wants_no_more_curves(content: RunContent) -> None:
    complete_run("tiny", lineage="l1", content=content)
    assert live.start_run("tiny", lineage="l1") is None
    assert live.start_run("tiny", lineage="l1", fold=0) is None


def test_an_unreachable_store_is_named_without_its_password(
    content: RunContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(InputError, match=r"MLflow store http://127\.0\.0\.1:9: .*MLFLOW_TRACKING_URI") as caught:
        complete_run("tiny", lineage="l1", content=content)
    assert "secret" not in str(caught.value)
    assert without_password("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"


def test_what_folds_have_in_common_stands_in_their_parent(folds: RunContent) -> None:
    run_id = complete_run("tiny", lineage="l1", content=folds)
    run = client().get_run(run_id)
    found = {name: value for name, value in run.data.metrics.items() if name.startswith("folds.")}
    # (0.6, 0.8) and (0.5, 0.7): half their distance times the root of two.
    assert found == pytest.approx({
        "folds.validation_dice.mean": 0.7, "folds.validation_dice.std": 0.1 * 2**0.5,
        "folds.out_of_fold.dice.mean": 0.6, "folds.out_of_fold.dice.std": 0.1 * 2**0.5})
    assert run.data.metrics["test.dice.mean"] == 0.5
    assert over_folds([folds.folds[0]]) == over_folds([]) == {}


def test_each_fold_has_a_run_below_that_of_the_experiment(folds: RunContent) -> None:
    parent = complete_run("tiny", lineage="l1", content=folds)
    assert complete_run("tiny", lineage="l1", content=folds) == parent
    children = {run.data.tags[FOLD]: run for run in runs_of(client(), "tiny") if run.info.run_id != parent}
    assert children.keys() == {"0", "1"}
    for fold, run in children.items():
        assert run.data.tags.items() >= {PARENT: parent, LINEAGE: "l1", "git_commit": "c0ffee"}.items()
        assert run.info.status == "FINISHED"
        assert run.data.params["fold"] == fold
        assert [item.path for item in client().list_artifacts(run.info.run_id, "tables")] == [
            f"tables/history.fold{fold}.csv"]
    assert points_of(client(), children["1"].info.run_id, "train_loss") == [(10, 2.0), (20, 1.0)]
    assert children["1"].data.metrics["out_of_fold.dice"] == pytest.approx(0.7)
    # One model, of all folds.
    assert [version.run_id for version in client().search_model_versions("name='segline-tiny'")] == [parent]


def test_folds_are_fed_by_their_trainings_and_one_that_was_killed_begins_anew_below_the_same_parent(
    folds: RunContent
) -> None:
    first = live.start_run("tiny", lineage="l1", fold=0)
    with live.feeding(first):
        live.publisher_of_curves(first)({"train_loss": 1.0}, 10)
    killed = live.start_run("tiny", lineage="l1", fold=1)
    with pytest.raises(SystemExit), live.feeding(killed):
        raise SystemExit(143)
    assert client().get_run(killed).info.status == "KILLED"
    again = live.start_run("tiny", lineage="l1", fold=1)
    with live.feeding(again):
        live.publisher_of_curves(again)({"train_loss": 2.0}, 10)
    parent = complete_run("tiny", lineage="l1", content=folds)
    assert set(ids("tiny")) == {parent, first, again}
    assert {client().get_run(run).data.tags[PARENT] for run in (first, again)} == {parent}
    assert points_of(client(), first, "train_loss") == [(10, 1.0), (20, 0.5)]
    assert points_of(client(), again, "train_loss") == [(10, 2.0), (20, 1.0)]


def test_of_two_parents_made_at_the_same_moment_the_first_is_kept(content: RunContent) -> None:
    first = main_run(client(), "tiny", "l1")
    experiment = client().get_experiment_by_name("tiny").experiment_id
    client().create_run(experiment, tags={LINEAGE: "l1"})
    assert main_run(client(), "tiny", "l1") == first
    assert [run.info.run_id for run in find_runs(client(), experiment, "l1").main] == [first]
