"""The audit: each fault is found and worded, sound cases go on, and what stops it is one line and no index."""

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tiny_audit import (
    CASES,
    CONFIG,
    IMAGE,
    LABEL,
    ROOT,
    SETTINGS,
    WORK,
    enter_audited_repository,
    findings,
    indexed,
    truncate,
)
from tiny_msd import SHAPE, describe, entry, image_array, write_scan

from pipeline.records.errors import InputError
from pipeline.records.index import read_index
from pipeline.records.settings import read_data_settings
from pipeline.sources.layouts import LAYOUTS
from pipeline.sources.msd import read_msd
from pipeline.stages import audit


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_audited_repository(tmp_path, monkeypatch)


def refusal(experiment: str = "tiny") -> InputError:
    with pytest.raises(InputError) as caught:
        audit.run(experiment)
    assert "\n" not in str(caught.value)
    assert not (WORK / "index.json").exists()
    return caught.value


# --- sound data


def test_the_index_of_sound_cases() -> None:
    audit.run("tiny")
    index = read_index(WORK / "index.json")
    assert (index.dataset, index.root, index.modality, index.licence) == ("tiny", "data/raw/tiny", "MR", "CC0-1.0")
    assert index.labels == {"organ": 1, "lesion": 2}
    assert [case.case_id for case in index.cases] == CASES
    case = index.cases[4]
    assert (case.case_id, case.patient) == ("p3_a", "p3")
    assert (case.image, case.label) == ("imagesTr/p3_a.nii.gz", "labelsTr/p3_a.nii.gz")
    assert (case.shape, case.spacing_mm, case.orientation) == (SHAPE, (1.0, 2.0, 3.0), "RAS")
    assert case.label_voxels == {"organ": 2, "lesion": 3}
    assert case.image_sha256 == sha256(IMAGE.read_bytes()).hexdigest()
    assert case.label_sha256 == sha256(LABEL.read_bytes()).hexdigest()
    assert findings() == []


def test_what_is_declared_of_left_and_right_stands_in_the_index() -> None:
    CONFIG.write_text(SETTINGS + "left_right: [[organ, lesion]]\n")
    audit.run("tiny")
    assert read_index(WORK / "index.json").left_right == (("organ", "lesion"),)
    CONFIG.write_text(SETTINGS + "left_right: [[organ, lung]]\n")
    assert refusal().reason == "invalid-value"


def test_patients_stay_together_and_every_split_has_one() -> None:
    audit.run("tiny")
    index = read_index(WORK / "index.json")
    by_split = {split: {case.patient for case in index.in_split(split)} for split in ("train", "validation", "test")}
    assert {split: len(patients) for split, patients in by_split.items()} == {"train": 3, "validation": 1, "test": 1}
    assert set.union(*by_split.values()) == {"p1", "p2", "p3", "p4", "p5"}


def test_with_folds_every_case_that_is_not_tested_on_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    CONFIG.write_text(f"{SETTINGS}folds: 2\n")
    audit.run("tiny")
    index = read_index(WORK / "index.json")
    # Seed 0 ranks p5, p2, p3, p1, p4; those with two scans are placed before the others.
    assert {(case.patient, case.split, case.fold) for case in index.cases} == {
        ("p5", "test", None), ("p2", "train", 0), ("p1", "train", 1), ("p3", "train", 0), ("p4", "train", 1)}
    assert "7 of 7 cases sound (6 in 2 folds, 1 test)" in capsys.readouterr().out
    assert "| fold 1 | 2 | 3 |" in (WORK / "audit.md").read_text()


def test_attributes_that_are_asked_for_stand_in_the_index(repository: Path) -> None:
    CONFIG.write_text("dataset: tiny\nattributes: [scanner]\n")
    (repository / ROOT / "participants.tsv").write_text(
        "participant_id\tscanner\tname\n" + "".join(f"{case}\tA\tMiller\n" for case in CASES[1:]))
    audit.run("tiny")
    cases = read_index(WORK / "index.json").cases
    assert [case.attributes["scanner"] for case in cases] == ["n/a", *["A"] * (len(CASES) - 1)]
    assert "Miller" not in (WORK / "index.json").read_text()


def test_more_folds_than_patients_are_refused() -> None:
    CONFIG.write_text(f"{SETTINGS}folds: 5\n")
    assert refusal().reason == "too-few-patients"
    CONFIG.write_text(f"{SETTINGS}folds: 1\n")
    assert refusal().reason == "invalid-folds"


def test_the_same_bytes_whatever_the_order_of_the_files() -> None:
    audit.run("tiny")
    first = (WORK / "index.json").read_bytes(), (WORK / "audit.md").read_bytes()
    describe(ROOT, training=[entry(case_id) for case_id in reversed(CASES)])
    audit.run("tiny")
    assert ((WORK / "index.json").read_bytes(), (WORK / "audit.md").read_bytes()) == first


def test_the_same_bytes_whatever_the_order_of_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    audit.run("tiny")
    first = (WORK / "index.json").read_bytes()
    monkeypatch.setitem(LAYOUTS, "msd", lambda root, _: replace(read_msd(root), cases=read_msd(root).cases[::-1]))
    audit.run("tiny")
    assert (WORK / "index.json").read_bytes() == first


def test_the_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(IMAGE, image_array() + np.nan)
    audit.run("tiny")
    line = capsys.readouterr().out
    assert line.startswith("audit: 6 of 7 cases sound (")
    assert line.endswith("; LEFT OUT: not-finite 1; details in work/tiny/audit.md\n")
    report = (WORK / "audit.md").read_text()
    assert "Modality MR, licence CC0-1.0. Size 5 x 4 x 3 voxels, spacing 1 x 2 x 3 mm, orientation RAS." in report
    assert "### not-finite (error, 1)" in report
    assert "| p3_a | imagesTr/p3_a.nii.gz | 60 voxels that are NaN or infinite | finite values |" in report


def test_nothing_names_this_machine(repository: Path) -> None:
    LABEL.write_bytes(LABEL.read_bytes()[:40])
    (ROOT / "labelsTr" / "p4_a.nii.gz").unlink()
    audit.run("tiny")
    for name in ("index.json", "audit.json", "audit.md"):
        assert str(repository) not in (WORK / name).read_text()


# --- what stops the audit


def test_no_sound_case_is_fatal_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    audit.run("tiny")
    for path in (ROOT / "imagesTr").iterdir():
        truncate(path)
    error = refusal()
    assert (error.reason, error.found) == ("no-sound-case", "no sound case among 7 listed")
    assert [item["check"] for item in findings()] == ["no-sound-case"] + ["truncated-file"] * 7
    assert findings()[0]["severity"] == "fatal"
    assert "### truncated-file (error, 7)" in (WORK / "audit.md").read_text()
    assert "audit FAILED: no sound case among 7 listed; LEFT OUT: truncated-file 7" in capsys.readouterr().out


def test_too_few_patients_for_three_splits() -> None:
    describe(ROOT, training=[entry("p1_a"), entry("p1_b"), entry("p2_a")])
    error = refusal()
    assert (error.reason, error.where) == ("empty-split", "configs/tiny/data.yaml")
    assert error.found.startswith("2 patient(s)")
    assert findings()[0]["check"] == "empty-split"


@pytest.mark.parametrize(("dataset", "command"), [
    ("liver", "python -m pipeline fetch liver"), ("phantom_3d", "python -m pipeline phantom --dataset phantom_3d"),
])
def test_missing_data_names_the_command(dataset: str, command: str) -> None:
    CONFIG.write_text(SETTINGS.replace("tiny", dataset))
    error = refusal()
    assert (error.reason, error.where) == ("missing-data", f"data/raw/{dataset}")
    assert command in error.remedy
    assert not WORK.exists()


def test_an_empty_folder() -> None:
    Path("data/raw/bare").mkdir()
    CONFIG.write_text(SETTINGS.replace("tiny", "bare"))
    error = refusal()
    assert (error.reason, error.where) == ("missing-description", "data/raw/bare/dataset.json")
    assert not WORK.exists()


def test_an_experiment_that_does_not_exist() -> None:
    error = refusal("nothing")
    assert (error.reason, error.where) == ("missing-config", "configs/nothing/data.yaml")


@pytest.mark.parametrize(("text", "reason", "found"), [
    ("dataset: tiny\nlayuot: msd\n", "unknown-key", "unknown key `layuot`"),
    ("layout: msd\n", "missing-key", "no `dataset`"),
    ("dataset: tiny\nsplit: {tset: 0.2}\n", "unknown-key", "unknown key `tset`"),
    ("dataset: tiny\ndataset: liver\n", "duplicate-key", "the key `dataset` twice"),
    ("dataset: tiny\nsplit:\n  test: 0.2\n  seed: 1\n  test: 0.3\n", "duplicate-key", "the key `test` twice"),
    ("dataset: tiny\nlayout: bids\n", "unknown-layout", "an unknown layout"),
    ("dataset: ../tiny\n", "odd-name", "`dataset: ../tiny`"),
    ("dataset: 5\n", "invalid-value", "`dataset: 5`"),
    ("dataset: tiny\nlayout: [msd]\n", "invalid-value", "`layout: ['msd']`"),
    ("dataset: tiny\npatient: 'p\\d+'\n", "invalid-pattern", "`patient: p\\d+` without a group"),
    ("dataset: tiny\npatient: '(p'\n", "invalid-pattern",
     "`patient: (p` (missing ), unterminated subpattern at position 0)"),
    ("dataset: tiny\npatient: '(p[1-4])_'\n", "no-patient",
     "`patient: (p[1-4])_` finds none in 1 of 7 case ids (`p5_a`)"),
    ("dataset: tiny\nsplit: {test: 0}\n", "invalid-fraction", "`split: test: 0`"),
    ("dataset: tiny\nsplit: {validation: many}\n", "invalid-fraction", "`split: validation: many`"),
    ("dataset: tiny\nsplit: {validation: 0.5, test: 0.5}\n", "invalid-fraction", "fractions that sum to 1"),
    ("dataset: tiny\nsplit: {seed: 0.5}\n", "invalid-seed", "`split: seed: 0.5`"),
    ("dataset: [tiny\n", "invalid-yaml", "invalid YAML"),
    ("- tiny\n", "invalid-yaml", "a list"),
])
def test_settings_that_cannot_be_used(text: str, reason: str, found: str) -> None:
    CONFIG.write_text(text)
    error = refusal()
    assert error.reason == reason
    assert error.found.startswith(found)
    assert error.where.startswith(str(CONFIG)) or reason == "unknown-layout"
    assert not WORK.exists()


def test_wrong_settings_leave_the_last_index_alone() -> None:
    audit.run("tiny")
    before = (WORK / "index.json").read_bytes()
    CONFIG.write_text("dataset: tiny\nlayuot: msd\n")
    with pytest.raises(InputError):
        audit.run("tiny")
    assert (WORK / "index.json").read_bytes() == before


# --- as people and DVC call it


def python(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(audit.__file__).parents[2])}
    return subprocess.run([sys.executable, *words], cwd=repository, env=environment, capture_output=True, text=True,
                          check=False)


def test_the_command_line_runs_the_audit(repository: Path) -> None:
    done = python(repository, "-m", "pipeline", "audit", "--experiment", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("audit: 7 of 7 cases sound (")
    assert indexed() == CASES


def test_the_command_line_says_it_in_one_line(repository: Path) -> None:
    CONFIG.write_text("dataset: tiny\nlayuot: msd\n")
    done = python(repository, "-m", "pipeline", "audit", "--experiment", "tiny")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("error: configs/tiny/data.yaml: unknown key `layuot`; expected one of attributes, dataset, "
                           "folders, folds, layout, left_right, patient, split; did you mean `layout`?\n")


def test_the_audit_imports_nothing_heavy(repository: Path) -> None:
    done = python(repository, "-c", "import sys, pipeline.stages.audit; print(*sys.modules)")
    imported = set(done.stdout.split())
    assert "pipeline.sources.checks" in imported
    assert not imported & {"torch", "monai", "mlflow", "SimpleITK", "matplotlib"}


# --- the configs that are delivered, and real data


@pytest.mark.parametrize("experiment", ["hippocampus_3d", "hippocampus_2d", "phantom_3d", "phantom_2d"])
def test_delivered_settings_are_sound(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    settings = audit.checked_settings(experiment)
    assert settings == read_data_settings(experiment)
    assert experiment.startswith(settings.dataset) or settings.dataset == "hippocampus"
    case_id, patient = ("p007_b", "p007") if "phantom" in experiment else ("hippocampus_001", "hippocampus_001")
    assert audit.patients_by_case([case_id], settings.patient, where=CONFIG) == {case_id: patient}


def shared_data() -> Path:
    folder = os.environ.get("SEGLINE_TEST_DATA")
    if not folder:
        pytest.skip("SEGLINE_TEST_DATA is not set: no real data to audit")
    return Path(folder)


def test_real_hippocampus_is_sound() -> None:
    Path("data/raw/hippocampus").symlink_to(shared_data() / "hippocampus")
    CONFIG.write_text("dataset: hippocampus\n")
    audit.run("tiny")
    index = read_index(WORK / "index.json")
    counts = [len(index.in_split(split)) for split in ("train", "validation", "test")]
    assert counts == [140, 20, 40]
    assert findings() == []
    first = index.cases[0]
    # Read with nibabel and numpy, once, by hand.
    assert (first.case_id, first.shape, first.orientation) == ("hippocampus_001", (35, 51, 35), "RAS")
    assert first.label_voxels == {"Anterior": 1324, "Posterior": 1624}


def test_real_files_without_partners_are_found() -> None:
    for part in ("imagesTr", "labelsTr"):
        for path in sorted((shared_data() / "hippocampus_unpaired" / part).iterdir()):
            (ROOT / part / path.name).symlink_to(path)
    audit.run("tiny")
    assert [(item["check"], item["severity"], item["file"]) for item in findings()] == [
        ("unpaired-file", "error", "imagesTr/hippocampus_118.nii.gz"),
        ("unpaired-file", "error", "labelsTr/hippocampus_010.nii.gz"),
        ("unpaired-file", "error", "labelsTr/hippocampus_281.nii.gz")]
    assert indexed() == CASES
