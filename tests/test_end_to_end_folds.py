"""Cross-validation as a user runs it: `folds: 2` in data.yaml; DVC does the rest, to an ensemble that segments."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.inferers import sliding_window_inference
from test_end_to_end import Project, copy_of_project, write_experiment

from pipeline.bundle import network_of, preprocessing_of
from pipeline.records.files import sha256_of_file
from pipeline.records.plan import read_plan

NAME = "tiny_folds"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = copy_of_project(tmp_path_factory.mktemp("project"))
    write_experiment(root, NAME, 3, folds=2)
    with (root / "configs" / NAME / "bundle.yaml").open("a") as stream:
        stream.write("spacing_mm: [-1, -1, -1]\n")  # each scan's own, so that results can be compared voxel by voxel
    made = Project(root, NAME)
    made.reproduce()
    return made


def work(project: Project) -> Path:
    return project.root / "work" / NAME


def cases(project: Project) -> dict[str, int | None]:
    """Returns the fold of each case in the index."""
    content = json.loads((work(project) / "index.json").read_text())
    return {case["case_id"]: case.get("fold") for case in content["cases"]}


def weights_of(project: Project, fold: int) -> dict[str, torch.Tensor]:
    return torch.load(work(project) / f"folds/fold{fold}/bundle/models/model.pt", weights_only=True)


def test_each_fold_is_trained_on_the_others_and_only_once(project: Project) -> None:
    active = yaml.safe_load((project.root / "configs/trainings.yaml").read_text())
    assert active["trainings"][f"{NAME}.fold1"] == {"experiment": NAME, "folder": f"{NAME}/folds/fold1"}
    assert active["ensembles"] == [NAME]
    assert set(cases(project).values()) == {0, 1, None}
    first, second = weights_of(project, 0), weights_of(project, 1)
    assert not all(torch.equal(first[key], second[key]) for key in first)
    assert not (project.root / "work/.resume" / NAME / "fold0").exists()
    assert "Running stage" not in project.reproduce()


def test_every_case_has_a_score_by_a_network_that_did_not_see_it(project: Project) -> None:
    with (work(project) / "cases.csv").open() as stream:
        scored = {row["case_id"]: row["split"] for row in csv.DictReader(stream)}
    folds = cases(project)
    assert scored == {case: "test" if fold is None else "validation" for case, fold in folds.items()}
    metrics = json.loads((work(project) / "metrics.json").read_text())
    assert metrics["validation"]["cases"] == sum(fold is not None for fold in folds.values())
    assert metrics["test"]["dice"].keys() == metrics["validation"]["dice"].keys() >= {"mean"}
    # The digest of the weights that segmented a case is that of its fold's file.
    for case, fold in folds.items():
        report = json.loads((work(project) / "predictions" / case / "report.json").read_text())
        used = [name for name in ("fold0", "fold1")
                if sha256_of_file(work(project) / f"folds/{name}/bundle/models/model.pt") in json.dumps(report)]
        assert used == ([] if fold is None else [f"fold{fold}"])
    assert len(json.loads((work(project) / "predictions/summary.json").read_text())["scans"]) == len(folds)


def segment(project: Project, scan: Path, output: Path, *words: str) -> np.ndarray:
    """Returns the class probabilities ``(x, y, z, classes)`` in RAS that the packaged bundle gives."""
    bundle = project.root / "models" / NAME
    project.run(sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs/inference.yaml"),
                "--bundle_root", str(bundle), "--input", str(scan), "--output_dir", str(output), "--speed", "exact",
                "--probabilities", *words)
    (made,) = output.glob("*/probabilities.nii.gz")
    return nib.as_closest_canonical(nib.load(made)).get_fdata()


def probabilities_of(networks: list[torch.nn.Module], image: torch.Tensor, window: Sequence[int],
                     temperature: float) -> np.ndarray:
    """Returns the mean of the networks' probabilities ``(x, y, z, classes)``, by MONAI's own sliding window.

    Its logarithms are divided by the temperature.
    """

    def mean_of_members(windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.softmax(network(windows), 1) for network in networks]).mean(0).log()

    with torch.inference_mode():
        scores = sliding_window_inference(image[None], window, 1, mean_of_members, overlap=0.5, mode="gaussian",
                                          padding_mode="replicate")
    return torch.softmax(scores / temperature, 1)[0].permute(1, 2, 3, 0).numpy()


def test_the_ensemble_segments_with_the_mean_of_its_members(project: Project, tmp_path: Path) -> None:
    case = next(case for case, fold in cases(project).items() if fold is None)
    scan = project.root / "data/raw" / NAME / "imagesTr" / f"{case}.nii.gz"
    # From the two files of weights alone; network and scan have one grid.
    plan_file = work(project) / "plan.yaml"
    plan = read_plan(plan_file)
    preprocessing = preprocessing_of(project.root / "bundles/segmentation", plan=plan_file, keys=["image"])
    image = torch.as_tensor(preprocessing({"image": scan})["image"])
    networks = []
    for fold in (0, 1):
        networks.append(network_of(plan).eval())
        networks[-1].load_state_dict(weights_of(project, fold))
    # The folds' temperatures, as the bundle has them.
    found = [json.loads((work(project) / f"folds/fold{fold}/bundle/docs/confidence.json").read_text())["temperature"]
             for fold in (0, 1)]
    temperature = (found[0] * found[1]) ** 0.5
    expected = probabilities_of(networks, image, plan.patch_size, temperature)
    together = segment(project, scan, tmp_path / "both")
    np.testing.assert_allclose(together, expected, atol=1e-4)
    first = segment(project, scan, tmp_path / "first", "--members", "0")
    np.testing.assert_allclose(first, probabilities_of(networks[:1], image, plan.patch_size, temperature), atol=1e-4)
    assert np.abs(together - first).max() > 1e-2


def test_the_report_and_the_runs_know_the_folds(project: Project) -> None:
    from mlflow import MlflowClient

    page = (project.root / "reports" / NAME / "index.html").read_text()
    assert page.count('class="fold"') == 4  # loss and Dice of two folds
    assert "Out of fold" in page
    client = MlflowClient(tracking_uri=f"sqlite:///{project.root / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
    parent, = (run for run in runs if "segline.fold" not in run.data.tags)
    children = {run.data.tags["segline.fold"]: run for run in runs if run is not parent}
    assert children.keys() == {"0", "1"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2  # epochs
    for run in children.values():  # fed while it was trained
        assert any(item.path.endswith(".png") for item in client.list_artifacts(run.info.run_id, "images"))
        assert run.data.metrics.keys() >= {"out_of_fold.dice", "network_share"}
    dice = [children[fold].data.metrics["out_of_fold.dice"] for fold in ("0", "1")]
    assert parent.data.metrics["folds.out_of_fold.dice.mean"] == pytest.approx(sum(dice) / 2)
    assert len(client.search_model_versions(f"name='segline-{NAME}'")) == 1


def test_what_data_yaml_and_dvc_disagree_on_is_named_before_anything_is_trained(project: Project) -> None:
    data = project.root / "configs" / NAME / "data.yaml"
    before = data.read_text()
    try:
        data.write_text(before.replace("folds: 2", "folds: 3"))
        output = project.run(sys.executable, "-m", "dvc", "repro", f"track@{NAME}", ok=False)
        assert "error: configs/trainings.yaml: the trainings tiny_folds.fold0, tiny_folds.fold1" in output
        assert f"python -m pipeline run --experiment {NAME}" in output
    finally:
        data.write_text(before)
