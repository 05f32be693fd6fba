from pathlib import Path

import pytest

from pipeline.records.attributes import attributes_of, read_attributes
from pipeline.records.errors import InputError

WHERE = Path("configs/liver/data.yaml")


def table(folder: Path, text: str) -> Path:
    (folder / "participants.tsv").write_bytes(text.encode("latin-1"))
    return folder


def test_a_case_has_its_own_line_or_that_of_its_patient_and_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    root = table(tmp_path, "participant_id\tscanner\tname\np1\tA\tMiller\np2_b\tB\tSmith\np3\t\tJones\n")
    found = read_attributes(root, ["scanner"], where=WHERE)
    assert found == {"p1": {"scanner": "A"}, "p2_b": {"scanner": "B"}, "p3": {"scanner": "n/a"}}
    assert attributes_of("p1_a", "p1", found, ["scanner"]) == {"scanner": "A"}
    assert attributes_of("p2_b", "p2", found, ["scanner"]) == {"scanner": "B"}
    assert attributes_of("p9", "p9", found, ["scanner"]) == {"scanner": "n/a"}


def test_without_names_no_table_is_wanted(tmp_path: Path) -> None:
    assert read_attributes(tmp_path, (), where=WHERE) == {}


@pytest.mark.parametrize(("text", "names", "reason"), [
    ("participant_id\tscanner\np1\tA\n", ["site"], "unknown-attribute"),
    ("participant_id,scanner\np1,A\n", ["scanner"], "unknown-attribute"), ("", ["scanner"], "unknown-attribute"),
    ("participant_id\tscanner\np1\tM\xfcller\n", ["scanner"], "damaged-attributes"),
    ("participant_id\tscanner\np1\tA\n", "scanner", "invalid-value"),
])
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, names: object, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        read_attributes(table(tmp_path, text), names, where=WHERE)
    assert refused.value.reason == reason


def test_a_missing_table_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"participants\.tsv: no such file; expected the table of scanner; add it, or"):
        read_attributes(tmp_path, ["scanner"], where=WHERE)
