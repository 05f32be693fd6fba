"""Against a team's MLflow: a real server over HTTP with a PostgreSQL behind it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tiny_runs import be_impatient, points_of, tiny_content
from tiny_server import TeamServer, needs_postgres, team_server

from pipeline.tracking import feed, live
from pipeline.tracking.complete import complete_run

pytestmark = needs_postgres
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with team_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """MLflow's own client of the server, to which this test's runs go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    be_impatient(monkeypatch)
    return MlflowClient(server.url)


def test_all_of_a_run_is_read_back_from_a_teams_server(client: MlflowClient, tmp_path: Path) -> None:
    run_id = live.start_run("tiny", lineage="l1")
    assert run_id is not None
    with live.feeding(run_id):
        live.publisher_of_curves(run_id)({"train_loss": 1.5}, 10)
        live.publisher_of_pictures(run_id)("validation/a", PICTURE, 10)
    assert complete_run("tiny", lineage="l1", content=tiny_content(tmp_path)) == run_id

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"iterations": "20"}
    assert run.data.metrics["test.dice.mean"] == 0.5
    assert run.data.tags.items() >= {"git_commit": "c0ffee", "segline.lineage": "l1"}.items()
    assert points_of(client, run_id, "train_loss") == [(10, 1.5), (20, 1.0)]
    contexts = {one.tags[0].value: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert contexts == {"training": "8" * 36, "evaluation": "9" * 36}

    kept = Path(client.download_artifacts(run_id, "", str(tmp_path / "kept")))
    table = json.loads((kept / "tables/cases.json").read_text())
    assert table == {"columns": ["case_id", "dice"], "data": [["a", 0.5]]}
    assert (kept / "report/index.html").read_text() == "<html></html>"
    picture, = (kept / "images").glob("validation~a+step+10*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), PICTURE)
    version, = client.search_model_versions("name='segline-tiny'")
    assert (version.run_id, version.status) == (run_id, "READY")
    assert live.start_run("tiny", lineage="l1") is None


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_is_told_while_the_server_is_away_arrives_when_it_is_back(
    server: TeamServer, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(feed, "RETRY_S", 0.5)
    run_id = live.start_run("tiny", lineage="away")
    with live.feeding(run_id):
        publish, show = live.publisher_of_curves(run_id), live.publisher_of_pictures(run_id)
        publish({"train_loss": 1.0}, 1)
        until(lambda: points_of(client, run_id, "train_loss") == [(1, 1.0)])
        server.kill()
        for step in range(2, 40):
            began_s = time.monotonic()
            publish({"train_loss": 1 / step}, step)
            show("validation/a", PICTURE, step) if step == 20 else None
            assert time.monotonic() - began_s < 0.5
        time.sleep(2)  # for some attempts
        server.start()
        publish({"train_loss": 1 / 40}, 40)
        until(lambda: len(points_of(client, run_id, "train_loss")) == 40)
        assert points_of(client, run_id, "train_loss") == [(step, 1 / step) for step in range(1, 41)]
        # When they were told, not when they arrived.
        times = [point.timestamp for point in client.get_metric_history(run_id, "train_loss")]
        assert times[-1] - times[-2] > 2000
        until(lambda: client.get_run(run_id).data.tags.get("mlflow.loggedImages") == "True")
    assert client.get_run(run_id).info.status == "FINISHED"
    assert capsys.readouterr().err.count("waits for the store") == 1


def test_what_never_arrived_is_filled_in_when_the_run_is_completed(
    server: TeamServer, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = live.start_run("tiny", lineage="lost")
    began_s = time.monotonic()
    with live.feeding(run_id):
        server.kill()
        live.publisher_of_curves(run_id)({"train_loss": 1.5}, 10)
    assert time.monotonic() - began_s < feed.GRACE_S
    assert "1 points and 0 pictures did not reach the store" in capsys.readouterr().err
    server.start()
    assert complete_run("tiny", lineage="lost", content=tiny_content(tmp_path)) == run_id
    assert points_of(client, run_id, "train_loss") == [(10, 1.5), (20, 1.0)]
