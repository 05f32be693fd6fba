"""Names for DICOM scans: keyed, stable, and from a key that only its user can read."""

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from pipeline.imaging.pseudonyms import key_file, pseudonym
from pipeline.records.errors import InputError


def test_name_is_the_hmac_of_the_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "secret")
    expected = hmac.new(b"secret", b"1.2.840.1", hashlib.sha256).hexdigest()[:16]
    assert pseudonym("1.2.840.1") == expected
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "other")
    assert pseudonym("1.2.840.1") != expected


def test_random_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGLINE_PSEUDONYM_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "one"))
    first = pseudonym("1.2")
    assert pseudonym("1.2") == first
    assert key_file() == tmp_path / "one/segline/pseudonym.key"
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == ["pseudonym.key"]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "two"))
    assert pseudonym("1.2") != first


def test_key_lies_in_the_home_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_file() == tmp_path / ".config/segline/pseudonym.key"


def test_place_that_takes_no_key_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGLINE_PSEUDONYM_KEY", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="SEGLINE_PSEUDONYM_KEY"):
        pseudonym("1.2")
