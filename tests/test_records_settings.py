"""What people write in configs/: read strictly, with the nearest right key in the message."""

from pathlib import Path

import pytest

from pipeline.records.errors import InputError
from pipeline.records.settings import (
    DataSettings,
    EvaluationSettings,
    SplitSettings,
    read_data_settings,
    read_evaluation_settings,
    read_yaml,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """configs/tiny, below the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs" / "tiny"
    path.mkdir(parents=True)
    return path


def refusal(folder: Path, text: str) -> InputError:
    (folder / "data.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_data_settings("tiny")
    assert "\n" not in str(caught.value)
    assert caught.value.where == "configs/tiny/data.yaml"
    return caught.value


def test_all_of_data_yaml(folder: Path) -> None:
    (folder / "data.yaml").write_text(
        "dataset: liver\nlayout: folders\npatient: '^(\\d+)'\nsplit: {validation: 0.15, test: 0.25, seed: 7}\n")
    assert read_data_settings("tiny") == DataSettings("liver", "folders", "^(\\d+)", SplitSettings(0.15, 0.25, 7))


def test_what_is_not_said_has_a_default(folder: Path) -> None:
    (folder / "data.yaml").write_text("dataset: liver\nsplit: {seed: 3}\n")
    settings = read_data_settings("tiny")
    assert settings == DataSettings("liver", "msd", "(.+)", SplitSettings(0.1, 0.2, 3))


def test_lists_of_evaluation_yaml(folder: Path) -> None:
    (folder / "evaluation.yaml").write_text("lesion_labels: [lesion]\nlesion_diameters_mm: [0, 4.5]\n")
    wanted = EvaluationSettings(lesion_labels=("lesion",), lesion_diameters_mm=(0, 4.5))
    assert read_evaluation_settings("tiny") == wanted


def test_an_empty_evaluation_yaml_is_all_defaults(folder: Path) -> None:
    (folder / "evaluation.yaml").write_text("# nothing\n")
    assert read_evaluation_settings("tiny") == EvaluationSettings()


@pytest.mark.parametrize(("text", "found", "remedy"), [
    ("dataset: x\npatiant: '(.+)'\n", "unknown key `patiant`", "did you mean `patient`?"),
    ("dataset: x\nqqq: 1\n", "unknown key `qqq`", "remove it"),
    ("dataset: x\nsplit: {valdation: 0.1}\n", "unknown key `valdation`", "did you mean `validation`?"),
    ("dataset: x\n5: 1\n", "unknown key `5`", "remove it"),
])
def test_an_unknown_key(folder: Path, text: str, found: str, remedy: str) -> None:
    error = refusal(folder, text)
    assert (error.reason, error.found, error.remedy) == ("unknown-key", found, remedy)


def test_a_missing_key(folder: Path) -> None:
    error = refusal(folder, "layout: msd\n")
    assert (error.reason, error.found) == ("missing-key", "no `dataset`")


@pytest.mark.parametrize(("text", "found"), [
    ("- dataset\n", "a list"), ("dataset\n", "a str"), ("dataset: x\nsplit: 0.2\n", "a float"),
    ("dataset: x\nsplit:\n", "a NoneType"), ("dataset: {\n", "invalid YAML"), ("a: 1\n\tb: 2\n", "invalid YAML"),
])
def test_yaml_that_is_no_mapping(folder: Path, text: str, found: str) -> None:
    error = refusal(folder, text)
    assert error.reason == "invalid-yaml"
    assert error.found.startswith(found)


def test_yaml_cannot_make_objects(folder: Path) -> None:
    assert refusal(folder, "dataset: !!python/object/apply:os.getcwd []\n").reason == "invalid-yaml"


def test_an_experiment_without_data_yaml() -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        read_data_settings("tiny")
    assert (caught.value.reason, caught.value.where) == ("missing-config", "configs/tiny/data.yaml")


def test_an_empty_file_is_an_empty_mapping(folder: Path) -> None:
    (folder / "x.yaml").write_text("")
    assert read_yaml(folder / "x.yaml") == {}
