"""Archives that fetch takes: known by content, never written outside their folder, refused when damaged."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_fetch import FILES, RAW, assert_nothing_left, call, enter_repository, files_below, names_in, refusal
from tiny_msd import write_msd

from pipeline.records import archives
from pipeline.records.archives import Limits
from pipeline.records.errors import InputError


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_repository(tmp_path, monkeypatch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_msd(tmp_path / "Task99_Tiny", ["a", "b"])


def pack_tar(mode: str, top: str) -> Callable[[Path, Path], None]:
    def pack(source: Path, archive: Path) -> None:
        with tarfile.open(archive, mode) as tar:
            tar.add(source, arcname=top)

    return pack


def pack_zip(top: str) -> Callable[[Path, Path], None]:
    def pack(source: Path, archive: Path) -> None:
        with zipfile.ZipFile(archive, "w") as packed:
            for name in files_below(source):
                packed.write(source / name, f"{top}{name}")
            if top:
                packed.writestr("__MACOSX/._imagesTr", b"extra")

    return pack


@pytest.mark.parametrize("pack", [pack_tar("w", "Task99_Tiny"), pack_tar("w:gz", "."), pack_tar("w:xz", "./Task99"),
                                  pack_zip("Task99_Tiny/"), pack_zip("")],
                         ids=["tar", "tar.gz without top", "tar.xz", "zip", "zip without top"])
def test_archives_are_known_by_content(source: Path, tmp_path: Path, pack: Callable[[Path, Path], None]) -> None:
    (source / "imagesTr" / "._a.nii.gz").write_bytes(b"macOS")
    pack(source, tmp_path / "archive.bin")
    call("tiny", "--from", str(tmp_path / "archive.bin"))
    assert files_below(RAW / "tiny") == FILES
    assert (RAW / "tiny/labelsTr/a.nii.gz").read_bytes() == (source / "labelsTr/a.nii.gz").read_bytes()
    assert names_in(RAW) == ["tiny"]


def tar_with(source: Path, archive: Path, info: tarfile.TarInfo) -> None:
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname="Tiny")
        tar.addfile(info, io.BytesIO(b"x" * info.size))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize("info", [
    member("../escaped"), member("Tiny/../../escaped"), member("/tmp/segline-escaped"),
    member("Tiny/link", tarfile.SYMTYPE, "../../escaped"), member("Tiny/hard", tarfile.LNKTYPE, "Tiny/dataset.json"),
    member("Tiny/device", tarfile.CHRTYPE), member("Tiny/pipe", tarfile.FIFOTYPE),
], ids=lambda info: info.name)
def test_an_unsafe_tar_member(source: Path, tmp_path: Path, info: tarfile.TarInfo) -> None:
    tar_with(source, tmp_path / "bad.tar", info)
    error = refusal("tiny", "--from", str(tmp_path / "bad.tar"))
    assert (error.reason, error.where) == ("unsafe-archive", f"{tmp_path / 'bad.tar'}, member {info.name!r}")
    # What goes into files tells no names.
    assert "escaped" not in error.found + error.wanted + error.remedy
    assert_nothing_left()
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize(("name", "mode"), [("../escaped", stat.S_IFREG), ("/escaped", 0), ("link", stat.S_IFLNK)])
def test_an_unsafe_zip_member(source: Path, tmp_path: Path, name: str, mode: int) -> None:
    pack_zip("")(source, tmp_path / "bad.zip")
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "a") as packed:
        packed.writestr(info, "../escaped")
    assert refusal("tiny", "--from", str(tmp_path / "bad.zip")).reason == "unsafe-archive"
    assert_nothing_left()
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize(("pack", "reasons"), [
    (pack_tar("w", "Tiny"), ("damaged-archive", "not-an-archive")),
    (pack_tar("w:gz", "Tiny"), ("damaged-archive", "not-an-archive")), (pack_zip("Tiny/"), ("damaged-archive",)),
], ids=["tar", "tar.gz", "zip"])
def test_a_truncated_archive(
    source: Path, tmp_path: Path, pack: Callable[[Path, Path], None], reasons: tuple[str, ...]
) -> None:
    archive = tmp_path / "archive"
    pack(source, archive)
    content = archive.read_bytes()
    for length in (len(content) // 8, len(content) // 2, 20):
        archive.write_bytes(content[:length])
        assert refusal("tiny", "--from", str(archive)).reason in reasons
        assert_nothing_left()


def test_a_zip_with_a_flipped_byte(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.zip"
    pack_zip("")(source, archive)
    content = bytearray(archive.read_bytes())
    content[100] ^= 0xFF
    archive.write_bytes(content)
    assert refusal("tiny", "--from", str(archive)).reason == "damaged-archive"
    assert_nothing_left()


def test_a_gzip_whose_checksum_is_wrong(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar.gz"
    pack_tar("w:gz", "Tiny")(source, archive)
    content = bytearray(archive.read_bytes())
    content[-8] ^= 0xFF
    archive.write_bytes(content)
    assert refusal("tiny", "--from", str(archive)).reason == "damaged-archive"
    assert_nothing_left()


@pytest.mark.parametrize("content", [b"", b"some text", gzip.compress(b"one volume, no archive" * 100, mtime=0)])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert refusal("tiny", "--from", str(tmp_path / "file")).reason == "not-an-archive"
    assert_nothing_left()


def test_an_archive_without_a_description(tmp_path: Path, source: Path) -> None:
    (source / "dataset.json").unlink()
    pack_tar("w", "Tiny")(source, tmp_path / "tiny.tar")
    error = refusal("tiny", "--from", str(tmp_path / "tiny.tar"))
    assert (error.reason, error.where) == ("missing-description", f"{tmp_path / 'tiny.tar'}/dataset.json")
    assert_nothing_left()


def test_nothing_is_written_before_all_members_were_looked_at(source: Path, tmp_path: Path) -> None:
    tar_with(source, tmp_path / "bad.tar", member("../escaped"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="escaped"):
        archives.unpack(tmp_path / "bad.tar", tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


LIMITS = Limits(files=10, free_bytes=1 << 31, inflation=200)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def reason_within(archive: Path, limits: Limits) -> str | None:
    folder = archive.with_name("unpacked")
    folder.mkdir(exist_ok=True)
    try:
        archives.unpack(archive, folder, limits=limits)
    except InputError as error:
        assert list(folder.iterdir()) == []
        return error.reason
    return None


def test_limits_hold_before_anything_is_written(tmp_path: Path) -> None:
    many = zipped(tmp_path / "many.zip", {str(i): b"" for i in range(11)})
    assert reason_within(many, LIMITS) == "too-large"
    large = zipped(tmp_path / "large.zip", {"a": bytes(5000)})
    assert reason_within(large, replace(LIMITS, free_bytes=4999)) == "too-large"
    rare = zipped(tmp_path / "rare.zip", {"a": b"content"}, zipfile.ZIP_BZIP2)
    assert reason_within(rare, LIMITS) == "unsupported-archive"
    assert reason_within(large, LIMITS) is None


def test_a_gigabyte_of_nothing_is_too_well_packed(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in "ab":
            packed.writestr(name, bytes(1000))
    content = archive.read_bytes()
    # The size once unpacked stands in the local header and in the directory: two times 1000 MiB.
    archive.write_bytes(content.replace((1000).to_bytes(4, "little"), (1000 << 20).to_bytes(4, "little")))
    assert reason_within(archive, LIMITS) == "too-large"


def test_a_directory_that_says_it_is_long_is_not_read(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "long.zip", {"a": b""})
    content = bytearray(archive.read_bytes())
    # The directory's length, at byte 12 of the record at the end.
    content[-10:-6] = (1 << 30).to_bytes(4, "little")
    archive.write_bytes(content)
    assert reason_within(archive, LIMITS) == "too-large"


def test_entries_are_counted_in_directories_of_either_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (65535, 5):
        # Above this number, Python writes the records of zip64.
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", most)
        archive = zipped(tmp_path / f"{most}.zip", {str(i): b"" for i in range(11)})
        assert (b"PK\x06\x06" in archive.read_bytes()) == (most == 5)
        with pytest.raises(InputError, match="11 entries"):
            archives.unpack(archive, tmp_path, limits=LIMITS)


def test_a_password_is_named(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"Smith.dcm": b"content"}).read_bytes())
    # Bit 0 of the flags, in the local header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError) as caught:
        archives.unpack(tmp_path / "a.zip", tmp_path)
    assert caught.value.reason == "encrypted-archive"
    assert "Smith" not in caught.value.found + caught.value.wanted + caught.value.remedy


def test_the_top_folder_is_kept_where_asked(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"top/a": b"1", "top/sub/b": b"2"})
    for keep_top, names in ((True, ["top/a", "top/sub/b"]), (False, ["a", "sub/b"])):
        folder = tmp_path / str(keep_top)
        folder.mkdir()
        archives.unpack(archive, folder, keep_top=keep_top)
        assert files_below(folder) == names
