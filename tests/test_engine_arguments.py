"""The command line as typed, whatever Fire and MONAI would make of it."""

import inspect
import sys
from pathlib import Path

import monai.bundle
import pytest
from tiny_msd import image_array, write_scan

from pipeline.engine.arguments import (
    RUN_ARGUMENTS,
    check_arguments,
    path_given,
    read_arguments,
    scans_below,
    typed_arguments,
)

PROGRAM = str(Path(monai.bundle.__file__).parent / "__main__.py")
CONFIG = "input: null\noutput_dir: null\nnetwork_def: {channels: 1}\nlabels: {}\n"


def start_as(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [PROGRAM, "run", *words])


ODD = ["123", "1_000", "1e3", "a,b", "x#y", "None", "True", "{a}", '"q"', "$x", "@x", "%x", "a b", ""]


@pytest.mark.parametrize("text", ODD)
def test_text_arrives_as_typed(text: str) -> None:
    assert read_arguments(["--input", text, "--other", "1"]) == {"input": text, "other": "1"}
    assert read_arguments([f"--input={text}"]) == {"input": text}


def test_words_are_split_as_fire_does() -> None:
    assert read_arguments(["id", "--output-dir", "out", "-input", "in", "--flag", "--a=-b", "--c", "-5"]) == {
        "output_dir": "out", "input": "in", "flag": None, "a": "-b", "c": "-5",
    }
    assert read_arguments(["--a", "1", "--a", "2", "--", "--trace"]) == {"a": "2"}


def test_other_programs_have_no_such_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "run", "--input", "x"])
    assert typed_arguments() == {}
    monkeypatch.setattr(sys, "argv", [PROGRAM, "ckpt_export", "--input", "x"])
    assert typed_arguments() == {}


def test_own_arguments_are_those_of_monai() -> None:
    parameters = inspect.signature(monai.bundle.run).parameters.values()
    named = [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
    assert sorted(RUN_ARGUMENTS) == sorted(named)


def test_path_of_the_command_line_wins_over_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    start_as(monkeypatch, "--output_dir", "1_000")
    assert path_given("output_dir", otherwise="1000") == Path("1_000")
    start_as(monkeypatch)
    assert path_given("output_dir", otherwise="out") == Path("out")


@pytest.mark.parametrize("words", [[], ["--input"], ["--input", "--output_dir", "x"], ["--input="]])
def test_missing_path_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_as(monkeypatch, *words)
    with pytest.raises(SystemExit) as stopped:
        path_given("input")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("--input: no path")


@pytest.mark.parametrize("words", [
    ["--input", "x", "--output_dir", "y"],
    ["--labels", "{}", "--network_def#channels", "3", "--network_def::channels", "3", "--run_id", "run"],
    ["--tracking", "mlflow", "--tracking_uri", "x"],
])
def test_known_keys_pass(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    start_as(monkeypatch, "--config_file", str(tmp_path / "a.yaml"), *words)
    check_arguments()


@pytest.mark.parametrize(("word", "nearest"), [
    ("--inptu", "--input?"), ("--outputdir", "--output_dir?"), ("--network#channels", "--network_def?"),
    ("--tracking_uri", "--tracking?"), ("--zzz", "remove it"),
])
@pytest.mark.parametrize("files", ["{0}/a.yaml,{0}/b.yaml", "['{0}/a.yaml', '{0}/b.yaml']"])
def test_unknown_key_is_one_line_that_names_the_nearest(
    word: str, nearest: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    (tmp_path / "b.yaml").write_text("more: 1\n")
    start_as(monkeypatch, "--config_file", files.format(tmp_path), "--more", "2", word, "x")
    with pytest.raises(SystemExit) as stopped:
        check_arguments()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{word}: no such key")
    assert nearest in line


@pytest.mark.parametrize("text", ["$x", "@x", '"$x"', "a,$x", "['@x']"])
def test_output_folder_that_monai_would_evaluate_is_refused_by_name(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_as(monkeypatch, "--output_dir", text)
    with pytest.raises(SystemExit):
        check_arguments()
    assert text in capsys.readouterr().err
    start_as(monkeypatch, "--output_dir", f"./{text}")
    if text in ("$x", "@x"):
        check_arguments()


def test_scans_are_found_or_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "in/a.nii.gz", image_array())
    write_scan(tmp_path / "in/out/a/segmentation.nii.gz", image_array())
    assert [scan.name for scan in scans_below(str(tmp_path / "in"), str(tmp_path / "in/out")).scans] == ["a"]
    with pytest.raises(SystemExit) as stopped:
        scans_below(tmp_path / "nothing", tmp_path / "out")
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_scans_that_are_all_refused_are_for_the_summary(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_text("<html>not found</html>")
    found = scans_below(tmp_path, tmp_path / "out")
    assert found.scans == ()
    assert [refused.relative for refused in found.refused] == ["a.dcm", "b.dcm"]
