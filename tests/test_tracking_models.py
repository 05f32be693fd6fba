import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from tiny_msd import write_scan
from tiny_runs import enter_store_of_its_own, tiny_content

from pipeline.records.errors import InputError
from pipeline.records.runs import RunContent
from pipeline.tracking.complete import complete_run
from pipeline.tracking.models import champion_of, move_champion
from pipeline.tracking.store import store_uri

# In a process that has none of the project but what the registry hands out.
PREDICT = """
import sys, json, mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/segline-tiny@champion")
answer = model.predict(pandas.DataFrame({"scan": ["scan.nii.gz", "nowhere.nii.gz"], "output_dir": ["out", "out"]}))
import pipeline
from importlib.metadata import distribution
print(json.dumps({"rows": answer.to_dict("records"), "code": pipeline.__path__[0],
                  "version": str(distribution("segline").locate_file("."))}))
"""


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContent:
    """What a tiny experiment would hand over, in a working directory of its own."""
    enter_store_of_its_own(tmp_path, monkeypatch)
    return tiny_content(tmp_path)


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=store_uri())


def version_with(alias: str) -> str:
    return str(client().get_model_version_by_alias("segline-tiny", alias).version)


def test_the_registered_model_segments_in_another_process_and_directory(content: RunContent, tmp_path: Path) -> None:
    complete_run("tiny", lineage="l1", content=content)
    elsewhere = tmp_path / "elsewhere"
    scan = np.zeros((6, 5, 4), dtype=np.float32)
    scan[1:3, 1:3, 1:3] = 1
    write_scan(elsewhere / "scan.nii.gz", scan, np.diag([1.0, 1.0, 5.0, 1.0]))  # 8 voxels of 0.005 mL
    ran = subprocess.run([sys.executable, "-c", PREDICT, store_uri()], cwd=elsewhere, capture_output=True, text=True,
                         check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    segmented, missing = answer["rows"]
    assert segmented["segmentation"] == "out/scan/segmentation.nii.gz"
    assert (elsewhere / segmented["segmentation"]).is_file()
    assert segmented["volumes_ml"] == pytest.approx({"organ": 0.04})
    assert (missing["status"], missing["reason"]) == ("failed", "missing-file")
    for origin in ("code", "version"):  # its own, where the project is installed as well
        assert Path(answer[origin]).is_relative_to(tmp_path / "mlartifacts")


def test_what_is_registered_is_files_and_no_pickle_of_code(content: RunContent, tmp_path: Path) -> None:
    complete_run("tiny", lineage="l1", content=content)
    folder = Path(mlflow.artifacts.download_artifacts("models:/segline-tiny/1", dst_path=str(tmp_path / "kept")))
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds & {".pkl", ".pickle", ".pyc", ".joblib"} == set()
    # MLflow would run an input example, a scan that is not there.
    assert not Path("segmented").exists()
    described = mlflow.models.Model.load(str(folder))
    assert described.flavors["python_function"]["loader_module"] == "pipeline.registered_bundle"
    assert "python_model" not in described.flavors["python_function"]
    assert described.signature.inputs.input_names() == ["scan", "output_dir"]
    assert {"segmentation", "volumes_ml"} < set(described.signature.outputs.input_names())
    assert "monai==1.6.1" in (folder / "requirements.txt").read_text().splitlines()
    assert (folder / "code/pipeline/registered_bundle.py").is_file()


def test_the_first_version_is_the_champion_until_a_comparison_moves_it(content: RunContent) -> None:
    assert champion_of("tiny") is None
    complete_run("tiny", lineage="l1", content=content)
    assert version_with("champion") == "1"
    complete_run("tiny", lineage="l2", content=replace(content, digest="d2"))
    assert version_with("champion") == "1"
    assert champion_of("tiny") == "l1"
    assert [move_champion("tiny", lineage="l2") for _ in range(2)] == ["2", "2"]
    assert champion_of("tiny") == "l2"
    assert version_with("champion") == "2"
    # Tracking the first again registers nothing, and takes nothing from the champion.
    complete_run("tiny", lineage="l1", content=replace(content, digest="d3"))
    assert version_with("champion") == "2"
    assert len(client().search_model_versions("name='segline-tiny'")) == 2


def test_a_state_that_was_never_tracked_is_no_champion(content: RunContent, monkeypatch: pytest.MonkeyPatch) -> None:
    complete_run("tiny", lineage="l1", content=content)
    with pytest.raises(InputError, match=r"segline-tiny in .*: no version of the state l2; .*track --experiment tiny"):
        move_champion("tiny", lineage="l2")
    assert champion_of("tiny") == "l1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    for ask in (lambda: champion_of("tiny"), lambda: move_champion("tiny", lineage="l1")):
        with pytest.raises(InputError, match="MLflow store") as caught:
            ask()
        assert "secret" not in str(caught.value)
