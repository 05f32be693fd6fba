"""The index survives writing and reading, chooses splits, and digests contents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.records.index import Index, IndexedCase, Split, read_index, write_index


def a_case(case_id: str, split: Split) -> IndexedCase:
    return IndexedCase(case_id=case_id, patient=case_id[:2], split=split, image=f"imagesTr/{case_id}.nii.gz",
                       label=f"labelsTr/{case_id}.nii.gz", shape=(4, 5, 6), spacing_mm=(0.5, 0.5, 2.0),
                       orientation="LPS", label_voxels={"organ": 7}, image_sha256="a" * 64, label_sha256="b" * 64)


@pytest.fixture
def index() -> Index:
    cases = (a_case("p1", "train"), a_case("p2", "test"), a_case("p3", "train"), a_case("p4", "validation"))
    return Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"organ": 1}, cases)


def test_reading_returns_what_was_written(index: Index, tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", index)
    assert read_index(tmp_path / "index.json") == index


@pytest.mark.parametrize("left_right", [None, (), (("left", "right"),)])
def test_sides_survive_the_file(left_right: tuple[tuple[str, str], ...] | None, index: Index, tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", replace(index, left_right=left_right))
    assert read_index(tmp_path / "index.json").left_right == left_right


def test_writing_again_gives_the_same_bytes(index: Index, tmp_path: Path) -> None:
    write_index(tmp_path / "one.json", index)
    write_index(tmp_path / "two.json", read_index(tmp_path / "one.json"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_the_file_is_plain_json(index: Index, tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", index)
    content = json.loads((tmp_path / "index.json").read_text())
    assert content["labels"] == {"organ": 1}
    assert content["cases"][1]["spacing_mm"] == [0.5, 0.5, 2.0]


def test_cases_of_a_split_are_in_order(index: Index) -> None:
    assert [case.case_id for case in index.in_split("train")] == ["p1", "p3"]
    assert [case.case_id for case in index.in_split("validation")] == ["p4"]
    assert [case.case_id for case in index.in_split("test")] == ["p2"]


def test_without_folds_the_file_does_not_mention_them(index: Index, tmp_path: Path) -> None:
    write_index(tmp_path / "index.json", index)
    assert "fold" not in (tmp_path / "index.json").read_text()
    assert index.folds == 0
    assert index.counts == "2 train, 1 validation, 1 test"
    assert {name: len(cases) for name, cases in index.groups.items()} == {"train": 2, "validation": 1, "test": 1}


def test_folds_are_kept_counted_and_grouped(index: Index, tmp_path: Path) -> None:
    cases = [replace(a_case(f"p{number}", "train"), fold=number % 2) for number in range(3)]
    folded = replace(index, cases=(*cases, a_case("p3", "test")))
    write_index(tmp_path / "index.json", folded)
    assert read_index(tmp_path / "index.json") == folded
    assert folded.folds == 2
    assert folded.counts == "3 in 2 folds, 1 test"
    groups = {name: [case.case_id for case in cases] for name, cases in folded.groups.items()}
    assert groups == {"fold 0": ["p0", "p2"], "fold 1": ["p1"], "test": ["p3"]}


def test_the_digest_follows_contents_only(index: Index) -> None:
    renamed = replace(index, dataset="other", root="elsewhere", cases=tuple(
        replace(case, image="moved.nii.gz") for case in index.cases))
    changed = replace(index, cases=(replace(index.cases[0], label_sha256="c" * 64), *index.cases[1:]))
    assert renamed.data_digest == index.data_digest
    assert changed.data_digest != index.data_digest
    assert len(index.data_digest) == 64
