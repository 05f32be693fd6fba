import zipfile
from pathlib import Path

from pipeline.stages.package import write_zip


def test_the_zip_unpacks_to_one_folder_and_is_the_same_bytes_whenever_written(tmp_path: Path) -> None:
    folder = tmp_path / "liver"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/a.yaml").write_text("a: 1\n")
    write_zip(folder, tmp_path / "one.zip")
    (folder / "configs/a.yaml").touch()
    write_zip(folder, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["liver/configs/a.yaml"]
        assert archive.read("liver/configs/a.yaml") == b"a: 1\n"
