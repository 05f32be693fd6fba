"""fetch: a folder becomes data/raw/<dataset>, whole or not at all. Archives and downloads: test_sources_*.py."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_fetch import FILES, RAW, assert_nothing_left, call, enter_repository, files_below, names_in, refusal
from tiny_msd import describe, entry, write_msd

from pipeline.commands import fetch
from pipeline.records.errors import InputError
from pipeline.sources import copies


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_repository(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_msd(tmp_path / "Task99_Tiny", ["a", "b"])


# --- folders


def test_a_folder_is_copied_without_hidden_files(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "imagesTr" / "._a.nii.gz").touch()
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").touch()
    call("tiny", "--from", str(source))
    assert files_below(RAW / "tiny") == FILES
    assert (RAW / "tiny/imagesTr/b.nii.gz").read_bytes() == (source / "imagesTr/b.nii.gz").read_bytes()
    assert "data/raw/tiny: 2 cases, modality MR, labels 1 organ, 2 lesion, licence CC0-1.0" in capsys.readouterr().out
    assert names_in(RAW) == ["tiny"]


def test_the_copy_is_neither_linked_nor_read_only(source: Path) -> None:
    original = source / "imagesTr" / "a.nii.gz"
    original.chmod(0o444)
    call("tiny", "--from", str(source))
    copied = RAW / "tiny/imagesTr/a.nii.gz"
    assert copied.stat().st_ino != original.stat().st_ino
    assert copied.stat().st_mode & stat.S_IWUSR


def test_a_folder_around_the_dataset(source: Path, tmp_path: Path) -> None:
    (tmp_path / "around").mkdir()
    source.rename(tmp_path / "around" / "Task99_Tiny")
    call("tiny", "--from", str(tmp_path / "around"))
    assert files_below(RAW / "tiny") == FILES


def test_linked_files_are_copied_as_files(source: Path, tmp_path: Path) -> None:
    (source / "imagesTr").rename(tmp_path / "elsewhere")
    (source / "imagesTr").symlink_to(tmp_path / "elsewhere")
    call("tiny", "--from", str(source))
    assert files_below(RAW / "tiny") == FILES
    assert not (RAW / "tiny/imagesTr").is_symlink()


@pytest.mark.parametrize(("link", "found"), [("nowhere", "a dangling link or a device"), (".", "a link in a circle")])
def test_a_link_that_cannot_be_copied(source: Path, link: str, found: str) -> None:
    (source / "odd").symlink_to(source / link)
    error = refusal("tiny", "--from", str(source))
    assert (error.reason, error.found, error.where) == ("not-a-file", found, str(source / "odd"))
    assert_nothing_left()


def test_files_without_a_case_are_counted(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "labelsTr" / "b.nii.gz").unlink()
    call("tiny", "--from", str(source))
    assert "1 cases" in capsys.readouterr().out.split("; 2 file(s) without a case")[0]


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    error = refusal("tiny", "--from", str(tmp_path / "nothing"))
    assert (error.reason, error.where) == ("missing-source", str(tmp_path / "nothing"))
    assert_nothing_left()


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = refusal("tiny", "--from", str(tmp_path / "empty"))
    assert (error.reason, error.where) == ("missing-description", str(tmp_path / "empty" / "dataset.json"))
    assert_nothing_left()


def test_a_dataset_without_a_complete_pair(source: Path) -> None:
    describe(source, training=[entry("c")])
    error = refusal("tiny", "--from", str(source))
    assert (error.reason, error.found) == ("no-case", "no complete case (6 file(s) without a partner)")
    assert_nothing_left()


def test_a_source_that_holds_the_target(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    assert refusal("tiny", "--from", ".").reason == "source-holds-target"


@pytest.mark.parametrize("name", ["../tiny", "a/b", "", ".hidden", "two words", "$x"])
def test_a_name_that_is_no_plain_folder_name(source: Path, name: str) -> None:
    assert refusal(name, "--from", str(source)).reason == "odd-name"
    assert_nothing_left()


# --- what is there already


def test_existing_data_is_kept_without_force(source: Path) -> None:
    (RAW / "tiny").mkdir(parents=True)
    (RAW / "tiny" / "old").write_text("old")
    error = refusal("tiny", "--from", str(source))
    assert error.reason == "already-fetched"
    assert "--force" in error.remedy
    assert files_below(RAW / "tiny") == ["old"]


def test_existing_data_is_replaced_with_force(source: Path) -> None:
    (RAW / "tiny").mkdir(parents=True)
    (RAW / "tiny" / "old").write_text("old")
    call("tiny", "--from", str(source), "--force")
    assert files_below(RAW / "tiny") == FILES
    assert names_in(RAW) == ["tiny"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_copy_leaves_the_old_data(source: Path, monkeypatch: pytest.MonkeyPatch,
                                                 interruption: BaseException) -> None:
    (RAW / "tiny").mkdir(parents=True)
    (RAW / "tiny" / "old").write_text("old")

    def copy_one_then_stop(origin: Path, target: Path) -> None:
        if origin.name == "b.nii.gz":
            raise interruption
        target.write_bytes(origin.read_bytes())

    monkeypatch.setattr(copies.shutil, "copyfile", copy_one_then_stop)
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        call("tiny", "--from", str(source), "--force")
    if isinstance(caught.value, InputError):
        assert (caught.value.reason, caught.value.found) == ("failed-copy", "a failed copy (No space left on device)")
    assert files_below(RAW / "tiny") == ["old"]
    assert names_in(RAW) == ["tiny"]


# --- as people call it


def test_the_command_line_says_it_in_one_line(tmp_path: Path, repository: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fetch.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", "pipeline", "fetch", "tiny", "--from", str(tmp_path / "nothing")],
                          cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (f"error: {tmp_path / 'nothing'}: no such file or folder; expected a dataset's folder or "
                           "archive; check the path after --from\n")
