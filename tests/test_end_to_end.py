"""The whole line as a user runs it, on a tiny phantom in a copy of the project: `python -m pipeline run`, twice."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from pipeline.records.files import sha256_of_file
from pipeline.sources.phantom_2d import DESCRIPTION_2D, make_phantom_2d
from pipeline.sources.phantom_3d import DESCRIPTION_3D, make_phantom_3d
from pipeline.sources.phantom_dataset import write_phantom

ROOT = Path(__file__).parent.parent
MADE = ("work", "models", "reports", "dvc.lock", ".dvc/cache", ".dvc/tmp")


@dataclass(frozen=True)
class Project:
    """A copy of the project with one tiny experiment, reproduced once."""

    root: Path
    experiment: str

    def run(self, *words: str, ok: bool = True) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        result = subprocess.run(words, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert (result.returncode == 0) is ok, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    def reproduce(self) -> str:
        return self.run(sys.executable, "-m", "pipeline", "run", "--experiment", self.experiment)

    def results(self) -> dict[str, str]:
        work = self.root / "work" / self.experiment
        files = [work / "metrics.json", work / "cases.csv", work / "history.csv", work / "bundle/models/model.pt",
                 work / "plan.yaml", work / "index.json",
                 *(path for path in sorted((work / "predictions").rglob("*")) if path.is_file())]
        return {path.relative_to(work).as_posix(): sha256_of_file(path) for path in files}


def copy_of_project(target: Path) -> Path:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    (target / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "-q"], cwd=target, check=True)
    return target


def write_experiment(root: Path, name: str, dims: int, **settings: object) -> None:
    """Writes raw data and configs of an experiment; `settings` are further ones of data.yaml."""
    raw = root / "data/raw" / name
    raw.mkdir(parents=True)
    if dims == 3:
        scans = make_phantom_3d(7, patients=6, largest_shape=(48, 40, 16))
        write_phantom(raw, scans, description=DESCRIPTION_3D, seed=7)
    else:
        write_phantom(raw, make_phantom_2d(7, patients=6, largest_side=64), description=DESCRIPTION_2D, seed=7)
    configs = root / "configs" / name
    configs.mkdir()
    split = {"validation": 0.2, "test": 0.3, "seed": 0}
    data = {"dataset": name, "patient": r"^(p\d+)_", "split": split, **settings}
    bundle = {"spatial_dims": dims, "iterations": 6, "epochs": 2, "validate_every": 1, "batch_size": 2}
    evaluation = {"pictures": 1}
    for file, content in (("data", data), ("bundle", bundle), ("evaluation", evaluation)):
        (configs / f"{file}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module", params=[3, 2], ids=["3d", "2d"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = copy_of_project(tmp_path_factory.mktemp("project"))
    made = Project(root, f"tiny_{request.param}d")
    write_experiment(root, made.experiment, request.param)
    made.reproduce()
    return made


def test_every_stage_leaves_its_output(project: Project) -> None:
    work = project.root / "work" / project.experiment
    for name in ("index.json", "audit.md", "fingerprint.json", "plan.yaml", "cache/manifest.json", "history.csv",
                 "bundle/models/model.pt", "cases.csv", "lesions.csv", "metrics.json", "plots", "mlflow_run.json"):
        assert (work / name).exists(), name
    assert (project.root / "reports" / project.experiment / "index.html").stat().st_size > 10_000
    assert (project.root / "models" / f"{project.experiment}.zip").is_file()


def test_the_experiment_was_activated_and_nothing_is_left_to_do(project: Project) -> None:
    assert project.experiment in yaml.safe_load((project.root / "configs/active.yaml").read_text())["experiments"]
    assert "Running stage" not in project.reproduce()


def test_metrics_and_plots_are_shown_by_dvc(project: Project) -> None:
    assert "test.dice.mean" in project.run(sys.executable, "-m", "dvc", "metrics", "show")
    assert "file://" in project.run(sys.executable, "-m", "dvc", "plots", "show")


def test_the_unpacked_zip_with_the_wheel_gives_the_identical_segmentation(project: Project, tmp_path: Path) -> None:
    shutil.unpack_archive(project.root / "models" / f"{project.experiment}.zip", tmp_path / "elsewhere")
    bundle = tmp_path / "elsewhere" / project.experiment
    project.run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                "--wheel-dir", str(tmp_path), ".")
    # The wheel's own modules, in front of those of the checkout that the environment has.
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "site", format="zip")
    evaluated = sorted((project.root / "work" / project.experiment / "predictions").glob("*/segmentation.nii.gz"))[0]
    case_id = evaluated.parent.name
    scan = project.root / "data/raw" / project.experiment / "imagesTr" / f"{case_id}.nii.gz"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    config = str(bundle / "configs/inference.yaml")
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "--config_file", config,
                    "--bundle_root", str(bundle), "--input", str(scan), "--output_dir", "out"],
                   cwd=tmp_path, env=environment, check=True, capture_output=True)
    made = tmp_path / "out" / case_id / "segmentation.nii.gz"
    assert made.read_bytes() == evaluated.read_bytes()
    assert nib.load(made).shape == nib.load(scan).shape
    np.testing.assert_allclose(nib.load(made).affine, nib.load(scan).affine, atol=1e-5)


def test_the_same_inputs_give_the_same_weights_predictions_and_metrics(project: Project) -> None:
    first = project.results()
    for name in MADE:
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    project.reproduce()
    assert project.results() == first


def test_the_same_state_has_one_run_with_a_registered_model(project: Project) -> None:
    # Reproduced twice by now, from scratch both times.
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project.root / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(project.experiment).experiment_id])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics.keys() >= {"train_loss", "validation_dice", "test.dice.mean", "test.recall.mean"}
    assert len(client.get_metric_history(runs[0].info.run_id, "train_loss")) == 2  # epochs
    assert len(client.search_model_versions(f"name='segline-{project.experiment}'")) == 1


def test_what_comes_from_the_cache_ends_in_a_complete_run_as_well(project: Project) -> None:
    from mlflow import MlflowClient

    first = project.results()
    for name in ("work", "models", "reports", "mlartifacts"):
        shutil.rmtree(project.root / name)
    (project.root / "mlflow.db").rename(project.root / "mlflow.db.before")
    try:
        assert "python -m pipeline train" not in project.reproduce()
        assert project.results() == first
        client = MlflowClient(tracking_uri=f"sqlite:///{project.root / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name(project.experiment).experiment_id])
        assert [run.info.status for run in runs] == ["FINISHED"]
        assert len(client.get_metric_history(runs[0].info.run_id, "train_loss")) == 2
    finally:
        (project.root / "mlflow.db.before").unlink()


def test_the_registered_model_segments(project: Project, tmp_path: Path) -> None:
    evaluated = sorted((project.root / "work" / project.experiment / "predictions").glob("*/segmentation.nii.gz"))[0]
    scan = project.root / "data/raw" / project.experiment / "imagesTr" / f"{evaluated.parent.name}.nii.gz"
    code = (
        "import mlflow, pandas; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        f"model = mlflow.pyfunc.load_model('models:/segline-{project.experiment}/1');"
        f"model.predict(pandas.DataFrame({{'scan': ['{scan}'], 'output_dir': ['{tmp_path}']}}))"
    )
    project.run(sys.executable, "-c", code)
    assert (tmp_path / evaluated.parent.name / "segmentation.nii.gz").read_bytes() == evaluated.read_bytes()
