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
    run.activate("liver")
    run.activate("liver")
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
