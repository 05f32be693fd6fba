"""Files and folders are written whole or not at all, and their digests are those of other tools."""

import json
from pathlib import Path

import pytest

from pipeline.records.files import (
    folder_written_aside,
    sha256_of_file,
    sha256_of_text,
    write_json,
    write_text,
    written_aside,
)

# printf abc | sha256sum
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "scan.nii.gz"
    with written_aside(target) as aside:
        assert aside.name == "scan.nii.gz"  # suffixes choose the format
        aside.write_text("content")
        assert not target.exists()
    assert target.read_text() == "content"
    assert names_in(target.parent) == ["scan.nii.gz"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file(tmp_path: Path, interruption: type[BaseException]) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")

    def fail_half_way() -> None:
        with written_aside(target) as aside:
            aside.write_text("ne")
            raise interruption

    with pytest.raises(interruption):
        fail_half_way()
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["table.csv"]


def test_a_folder_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "cache"
    target.mkdir()
    (target / "old").touch()
    with folder_written_aside(target) as aside:
        (aside / "new").touch()
        assert names_in(target) == ["old"]
    assert names_in(target) == ["new"]
    assert names_in(tmp_path) == ["cache"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_folder(tmp_path: Path, interruption: type[BaseException]) -> None:
    target = tmp_path / "cache"
    target.mkdir()
    (target / "old").touch()

    def fail_half_way() -> None:
        with folder_written_aside(target) as aside:
            (aside / "new").touch()
            raise interruption

    with pytest.raises(interruption):
        fail_half_way()
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["cache"]


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "5 µm")
    assert (tmp_path / "a.txt").read_bytes() == b"5 \xc2\xb5m"


def test_json_keeps_the_order_of_keys_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": ["ü"]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "ü"\n  ]\n}\n'


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")])
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "abc") == SHA256_OF_ABC
    assert sha256_of_text("abc") == SHA256_OF_ABC
