import zipfile
from pathlib import Path

from pipeline.records.index import Index
from pipeline.stages.package import model_card, write_zip

INDEX = Index("liver", "data/raw/liver", "CT", "CC0", {"organ": 1, "lesion": 2}, ())
PLAN = {"network_def": {"_target_": "UNet"}, "patch_size": [8, 8, 8], "spacing_mm": [1, 1, 1], "iterations": 9,
        "batch_size": 2, "accumulation": 2, "processes": 3}


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


def test_the_model_card_says_where_a_score_is_not_defined() -> None:
    scores = {"organ": 0.95, "lesion": None}
    test = {"cases": 4, "dice": scores, "recall": scores, "precision": scores}
    card = model_card("liver_3d", INDEX, PLAN, {"test": test})
    assert "| organ | 0.950 | 0.950 | 0.950 |" in card
    assert "| lesion | not defined | not defined | not defined |" in card
    assert "9 iterations of 12 patches" in card  # 2 in each of 2 parts in each of 3 processes
    assert "licence: CC0" in card
    assert "component" not in card
    assert "\n- Kept: the largest.\n" in model_card("liver_3d", INDEX, PLAN, {"test": test}, "Kept: the largest.")
