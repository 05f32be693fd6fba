"""Calls fetch in an empty repository and looks at what it left there; for the tests of fetch and of its sources."""

import argparse
from pathlib import Path

import pytest

from pipeline.commands import fetch
from pipeline.records.errors import InputError

RAW = Path("data/raw")
FILES = ["dataset.json", "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz"]


def enter_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty repository the working folder; loopback is reached without a proxy."""
    (folder / "repository").mkdir()
    monkeypatch.chdir(folder / "repository")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder / "repository"


def call(*words: str) -> None:
    parser = argparse.ArgumentParser()
    fetch.add_arguments(parser)
    fetch.run(parser.parse_args(words))


def refusal(*words: str) -> InputError:
    with pytest.raises(InputError) as caught:
        call(*words)
    assert "\n" not in str(caught.value)
    assert ".aside" not in str(caught.value)
    return caught.value


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_nothing_left() -> None:
    assert not RAW.exists() or list(RAW.iterdir()) == []
