import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tiny_runs import enter_store_of_its_own, points_of, runs_of

from pipeline.tracking import feed, live
from pipeline.tracking.store import open_client, store_uri

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
NOWHERE = "http://user:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter_store_of_its_own(tmp_path, monkeypatch)


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_training_leaves_no_second_run() -> None:
    killed = live.start_run("tiny", lineage="l1")
    again = live.start_run("tiny", lineage="l1")
    assert again != killed
    assert [run.info.run_id for run in runs_of(client(), "tiny")] == [again]


@pytest.mark.parametrize(("error", "status"), [(SystemExit(143), "KILLED"), (KeyboardInterrupt(), "KILLED"),
                                               (RuntimeError(), "FAILED"), (None, "FINISHED")])
def test_a_run_says_how_its_training_ended(error: BaseException | None, status: str) -> None:
    run_id = live.start_run("tiny", lineage="l1")
    with nullcontext() if error is None else pytest.raises(type(error)), live.feeding(run_id):
        assert client().get_run(run_id).info.status == "RUNNING"
        if error is not None:
            raise error
    assert client().get_run(run_id).info.status == status


def test_what_is_told_again_after_a_lack_of_memory_is_sent_once() -> None:
    run_id = live.start_run("tiny", lineage="l1")
    with live.feeding(run_id):
        for points in ([(1.5, 10), (1.25, 20)], [(1.5, 10), (1.25, 20), (1.0, 30)]):
            publish, show = live.publisher_of_curves(run_id), live.publisher_of_pictures(run_id)
            for value, step in points:
                publish({"train_loss": value}, step)
                show("validation/a", PICTURE, step)
    assert points_of(client(), run_id, "train_loss") == [(10, 1.5), (20, 1.25), (30, 1.0)]
    assert len([item for item in client().list_artifacts(run_id, "images") if item.path.endswith(".png")]) == 3


def test_without_a_run_curves_go_nowhere() -> None:
    before = threading.active_count()
    with live.feeding(None):
        assert threading.active_count() <= before
        live.publisher_of_curves(None)({"train_loss": 1.0}, 1)
        live.publisher_of_pictures(None)("validation/a", PICTURE, 1)
    assert live.publisher_of_curves(None) is live.publisher_of_curves(None)
    assert live.FEEDS == {}


def test_pictures_are_shown_by_step_under_keys_that_mlflow_takes(tmp_path: Path) -> None:
    run_id = live.start_run("tiny", lineage="l1")
    with live.feeding(run_id):
        publish = live.publisher_of_pictures(run_id)
        publish("validation/größe + 1", PICTURE, 20)
        publish("validation/größe + 1", PICTURE, 40)
    names = [Path(item.path).name for item in client().list_artifacts(run_id, "images")]
    assert {name.split("+timestamp")[0] for name in names} == {
        "validation~gr_xf6_xdfe _ 1+step+20", "validation~gr_xf6_xdfe _ 1+step+40"}
    name = next(name for name in names if name.endswith(".png"))
    stored = client().download_artifacts(run_id, f"images/{name}", str(tmp_path))
    np.testing.assert_array_equal(np.asarray(Image.open(stored)), PICTURE)
    assert client().get_run(run_id).data.tags["mlflow.loggedImages"] == "True"


def test_names_that_differ_have_keys_that_differ() -> None:
    assert live.picture_key("validation/a-1_b.c d") == "validation/a-1_b.c d"
    assert live.picture_key("張三") == "_u5f35_u4e09"


def test_the_machines_load_is_followed_until_training_ends_or_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run_id = live.start_run("tiny", lineage="l1")
    before = threading.active_count()
    with pytest.raises(SystemExit), live.feeding(run_id):  # noqa: PT012
        until(lambda: len(live.FEEDS[run_id].points) > 20)  # of more than one reading
        raise SystemExit(143)
    found = {name for name in client().get_run(run_id).data.metrics if name.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found
    # Numbers about the load and nothing else of the machine.
    kinds = re.compile(r"system/(cpu|system_memory|disk|network|gpu_\d+)_[a-z_]+")
    assert [name for name in found if not kinds.fullmatch(name)] == []
    steps = [step for step, _ in points_of(client(), run_id, "system/cpu_utilization_percentage")]
    assert steps == list(range(len(steps)))
    assert threading.active_count() <= before  # a thread of a test before this one may end meanwhile
    assert capsys.readouterr().err == ""


def test_nothing_is_sent_before_the_network_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run_id = live.start_run("tiny", lineage="l1")
    with live.feeding(run_id):
        until(lambda: len(live.FEEDS[run_id].points) > 0)
        time.sleep(0.2)
        assert client().get_run(run_id).data.metrics == {}
        live.publisher_of_curves(run_id)({"train_loss": 1.0}, 1)
        until(lambda: client().get_run(run_id).data.metrics)
        assert client().get_run(run_id).data.metrics.keys() > {"train_loss"}


def test_a_store_that_is_away_from_the_start_to_the_end_costs_a_line_each_and_no_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    began_s = time.monotonic()
    run = live.start_run("tiny", lineage="l1")
    with live.feeding(run):
        publish = live.publisher_of_curves(run)
        for step in range(50):
            publish({"train_loss": 1.0}, step)
        live.publisher_of_pictures(run)("validation/a", PICTURE, 1)
        time.sleep(0.3)
    assert time.monotonic() - began_s < 10
    said = capsys.readouterr().err
    assert [re.sub(r" \(.*\)", "", line) for line in said.splitlines()] == [
        "MLflow: no run yet; training goes on",
        "MLflow: what is told live waits for the store; training goes on",
        "MLflow: 50 points and 1 pictures did not reach the store; the track stage writes what its curves lack"]
    assert "secret" not in said


def test_a_run_that_could_not_be_opened_at_first_is_opened_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    run = live.start_run("tiny", lineage="l1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with live.feeding(run):
        live.publisher_of_curves(run)({"train_loss": 1.0}, 1)
    opened, = runs_of(client(), "tiny")
    assert points_of(client(), opened.info.run_id, "train_loss") == [(1, 1.0)]
    assert capsys.readouterr().err.count("\n") == 1


def test_what_the_store_refuses_for_good_holds_nothing_up(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = live.start_run("tiny", lineage="l1")
    with live.feeding(run_id):
        live.publisher_of_curves(run_id)({"x" * 300: 1.0}, 1)  # a longer name than MLflow takes
        until(lambda: live.FEEDS[run_id].troubles)
        live.publisher_of_curves(run_id)({"train_loss": 1.0}, 1)
    assert client().get_run(run_id).data.metrics.keys() == {"train_loss"}
    assert "is refused in part" in capsys.readouterr().err


def test_what_waits_is_bounded_and_the_oldest_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_POINTS", 3)
    monkeypatch.setattr(feed, "GRACE_S", 0.0)
    waiting = feed.Feed(lambda: pytest.fail("opened before training"))
    for step in range(5):
        waiting.add_points({"system/load": 1.0}, step, is_training=False)
    assert [point.step for point in waiting.points] == [2, 3, 4]
    waiting.is_unwanted = True
    waiting.close("FINISHED")


def test_without_psutil_there_are_no_system_metrics(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics.system_metrics_monitor", None)
    with live.feeding(live.start_run("tiny", lineage="l1")):
        pass
    assert capsys.readouterr().err.startswith("MLflow: no system metrics (")


def test_a_store_that_does_not_answer_is_not_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    run_id = live.start_run("tiny", lineage="l1")
    monkeypatch.setattr(feed, "GRACE_S", 0.05)
    monkeypatch.setattr(feed, "open_client", lambda: answer.wait(30) and open_client())
    began_s = time.monotonic()
    with live.feeding(run_id):
        live.publisher_of_curves(run_id)({"train_loss": 1.0}, 1)
    assert time.monotonic() - began_s < 10
    answer.set()
