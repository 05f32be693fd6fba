"""Against a team's MLflow: a real server over HTTP with a PostgreSQL behind it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from tiny_runs import tiny_content
from tiny_server import TeamServer, needs_postgres, team_server

from pipeline import tracking

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
    return MlflowClient(server.url)


def test_all_of_a_run_is_read_back_from_a_teams_server(client: MlflowClient, tmp_path: Path) -> None:
    run_id = tracking.start_run("tiny", lineage="l1")
    assert run_id is not None
    tracking.publisher_of_curves(run_id)({"train_loss": 1.5}, 10)
    tracking.publisher_of_pictures(run_id)("validation/a", PICTURE, 10)
    assert tracking.complete_run("tiny", lineage="l1", content=tiny_content(tmp_path)) == run_id

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"iterations": "20"}
    assert run.data.metrics["test.dice.mean"] == 0.5
    assert run.data.tags.items() >= {"git_commit": "c0ffee", "segline.lineage": "l1"}.items()
    points = client.get_metric_history(run_id, "train_loss")
    assert [(point.step, point.value) for point in points] == [(10, 1.5), (20, 1.0)]
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"

    kept = Path(client.download_artifacts(run_id, "", str(tmp_path / "kept")))
    table = json.loads((kept / "tables/cases.json").read_text())
    assert table == {"columns": ["case_id", "dice"], "data": [["a", 0.5]]}
    assert (kept / "report/index.html").read_text() == "<html></html>"
    picture, = (kept / "images").glob("validation~a+step+10*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), PICTURE)
    version, = client.search_model_versions("name='segline-tiny'")
    assert (version.run_id, version.status) == (run_id, "READY")
    assert tracking.start_run("tiny", lineage="l1") is None
