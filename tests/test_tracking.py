import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tiny_runs import CURVE, enter_store_of_its_own, tiny_content

from pipeline import tracking
from pipeline.records.errors import InputError
from pipeline.records.runs import RunContent

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContent:
    """What a tiny experiment would hand over, in a working directory of its own."""
    enter_store_of_its_own(tmp_path, monkeypatch)
    return tiny_content(tmp_path)


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


def test_pictures_are_shown_by_step_under_keys_that_mlflow_takes(content: RunContent, tmp_path: Path) -> None:
    run_id = tracking.start_run("tiny", lineage="l1", fold=0)
    publish = tracking.publisher_of_pictures(run_id, 0)
    publish("validation/größe + 1", PICTURE, 20)
    publish("validation/größe + 1", PICTURE, 40)
    names = [Path(item.path).name for item in client().list_artifacts(run_id, "images")]
    assert {name.split("+timestamp")[0] for name in names} == {
        "validation~gr_xf6_xdfe _ 1.fold0+step+20", "validation~gr_xf6_xdfe _ 1.fold0+step+40"}
    name = next(name for name in names if name.endswith(".png"))
    stored = client().download_artifacts(run_id, f"images/{name}", str(tmp_path))
    np.testing.assert_array_equal(np.asarray(Image.open(stored)), PICTURE)
    assert client().get_run(run_id).data.tags["mlflow.loggedImages"] == "True"


def test_names_that_differ_have_keys_that_differ() -> None:
    assert tracking.picture_key("validation/a-1_b.c d") == "validation/a-1_b.c d"
    assert tracking.picture_key("張三") == "_u5f35_u4e09"


def system_curves(run_id: str) -> set[str]:
    return {name for name in client().get_run(run_id).data.metrics if name.startswith("system/")}


@pytest.mark.parametrize(("fold", "prefix"), [(None, "system/"), (1, "system/fold1/")])
def test_the_machines_load_is_followed_until_training_ends_or_fails(
    content: RunContent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fold: int | None,
    prefix: str,
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run_id = tracking.start_run("tiny", lineage="l1", fold=fold)
    with pytest.raises(SystemExit), tracking.system_metrics(run_id, fold):  # noqa: PT012
        publish = tracking.publisher_of_curves(run_id)
        for step in range(200):
            publish({"train_loss": 1.0}, step)
            time.sleep(0.05)
            if step > 4 and system_curves(run_id):
                break
        raise SystemExit(143)
    found = system_curves(run_id)
    assert {f"{prefix}cpu_utilization_percentage", f"{prefix}system_memory_usage_megabytes"} <= found
    # Numbers about the load and nothing else of the machine.
    kinds = re.compile(rf"{prefix}(cpu|system_memory|disk|network|gpu_\d+)_[a-z_]+")
    assert [name for name in found if not kinds.fullmatch(name)] == []
    assert [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"] == []
    assert capsys.readouterr().err == ""


def test_without_a_run_nothing_is_followed() -> None:
    before = threading.active_count()
    with tracking.system_metrics(None):
        assert threading.active_count() == before
    tracking.publisher_of_pictures(None)("validation/a", PICTURE, 1)


def test_a_store_that_is_lost_costs_neither_training_nor_more_than_a_line_each(
    content: RunContent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with tracking.system_metrics("0" * 32):
        publish = tracking.publisher_of_pictures("0" * 32)
        publish("validation/a", PICTURE, 1)
        publish("validation/a", PICTURE, 2)
        time.sleep(0.5)
    said = sorted(capsys.readouterr().err.splitlines())
    assert [line.partition(" (")[0] for line in said] == ["MLflow: live pictures stopped",
                                                          "MLflow: system metrics stopped"]
    assert all(line.endswith("; training goes on") for line in said)


def test_without_psutil_there_are_no_system_metrics(
    content: RunContent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics", None)
    with tracking.system_metrics("0" * 32):
        pass
    assert capsys.readouterr().err.startswith("MLflow: no system metrics (")


def test_a_store_that_does_not_answer_is_not_waited_for_at_the_end(
    content: RunContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(tracking, "GRACE_S", 0.05)
    monkeypatch.setattr(tracking, "_started_monitor", lambda *_: SimpleNamespace(finish=lambda: answer.wait(30)))
    began_s = time.monotonic()
    with tracking.system_metrics("0" * 32):
        pass
    assert time.monotonic() - began_s < 10
    answer.set()
