from argparse import Namespace
from pathlib import Path

import pytest

from pipeline.commands import run
from pipeline.records.errors import InputError
from pipeline.records.strict_yaml import read_yaml


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs/liver").mkdir(parents=True)
    (tmp_path / "configs/liver/data.yaml").write_text("dataset: liver\n")
    (tmp_path / "configs/active.yaml").write_text("# what runs\nexperiments:\n- phantom_3d\n")
    (tmp_path / "dvc.yaml").write_text("stages: {phantom: {matrix: {dataset: [phantom_3d]}}}\n")
    return tmp_path


def test_missing_raw_data_names_the_fetch_command_and_activates_nothing(project: Path) -> None:
    with pytest.raises(InputError, match=r"data/raw/liver: no such folder.*python -m pipeline fetch liver"):
        run.run(Namespace(experiment="liver"))
    assert read_yaml(project / "configs/active.yaml")["experiments"] == ["phantom_3d"]


def test_an_unknown_experiment_names_the_known() -> None:
    with pytest.raises(InputError, match="no such experiment; expected one of liver"):
        run.run(Namespace(experiment="lvier"))


def test_activating_adds_once_says_so_and_keeps_comments(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.activate("liver", None)
    run.activate("liver", None)
    assert (project / "configs/active.yaml").read_text() == "# what runs\nexperiments:\n- phantom_3d\n- liver\n"
    assert capsys.readouterr().out.count("added liver") == 1


def test_only_the_stages_of_the_experiment_are_reproduced(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "data/raw/liver").mkdir(parents=True)
    calls = []
    monkeypatch.setattr(run.subprocess, "run", lambda command, **_: calls.append(command) or Namespace(returncode=3))
    with pytest.raises(SystemExit) as stopped:
        run.run(Namespace(experiment="liver"))
    assert stopped.value.code == 3
    assert calls[0][1:] == ["-m", "dvc", "repro", "track@liver"]


def test_folds_become_trainings_of_their_own_and_are_forgotten_with_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.activate("liver", 2)
    assert "liver is trained 2 times, once for each fold" in capsys.readouterr().out
    fold = {"experiment": "liver", "folder": "liver/folds/fold0"}
    content = read_yaml(project / "configs/trainings.yaml")
    assert content["trainings"] == {"liver.fold0": fold, "liver.fold1": {**fold, "folder": "liver/folds/fold1"}}
    assert content["ensembles"] == ["liver"]
    run.activate("liver", 2)
    assert capsys.readouterr().out == ""
    run.activate("liver", None)
    content = read_yaml(project / "configs/trainings.yaml")
    assert content == {"trainings": {"liver": {"experiment": "liver", "folder": "liver"}}, "ensembles": []}


def test_other_experiments_keep_their_trainings_while_they_are_active(project: Path) -> None:
    (project / "configs/active.yaml").write_text("experiments:\n- kidney\n- spleen\n")
    for name, folds in (("spleen", None), ("kidney", 3)):
        run.activate(name, folds)
    run.activate("liver", 2)
    content = read_yaml(project / "configs/trainings.yaml")
    assert list(content["trainings"]) == ["kidney.fold0", "kidney.fold1", "kidney.fold2", "spleen",
                                          "liver.fold0", "liver.fold1"]
    assert content["ensembles"] == ["kidney", "liver"]
    (project / "configs/active.yaml").write_text("experiments:\n- liver\n")
    run.activate("liver", 2)
    content = read_yaml(project / "configs/trainings.yaml")
    assert list(content["trainings"]) == ["liver.fold0", "liver.fold1"]
    assert content["ensembles"] == ["liver"]


def test_folds_that_cannot_be_meant_activate_nothing(project: Path) -> None:
    (project / "configs/liver/data.yaml").write_text("dataset: liver\nfolds: 1\n")
    with pytest.raises(InputError, match="`folds: 1`; expected a whole number, 2 or more"):
        run.run(Namespace(experiment="liver"))
    assert not (project / "configs/trainings.yaml").exists()


def test_an_experiment_is_not_called_like_a_fold(project: Path) -> None:
    (project / "configs/liver.fold0").mkdir()
    (project / "configs/liver.fold0/data.yaml").write_text("dataset: liver\n")
    with pytest.raises(InputError, match="a name that ends like that of a fold"):
        run.run(Namespace(experiment="liver.fold0"))
