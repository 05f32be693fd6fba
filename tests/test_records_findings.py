"""Findings: what each check says, and how they are counted and written."""

import json
from pathlib import Path

import pytest

from pipeline.records.audits import Audit, audit_as_markdown, summary_line
from pipeline.records.errors import InputError
from pipeline.records.findings import (
    CHECKS,
    Finding,
    counts_by_check,
    finding_from,
    findings_as_markdown,
    write_findings,
)


def shape_mismatch(case_id: str = "a") -> Finding:
    return CHECKS["shape-mismatch"].finding(f"labelsTr/{case_id}.nii.gz", case_id, found="3x3x2 voxels", wanted="3x3x3")


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_a_sentence_and_a_remedy(name: str) -> None:
    check = CHECKS[name]
    assert check.name == name
    assert check.sentence.endswith(".")
    assert check.remedy
    assert check.severity in ("warning", "error", "fatal")


def test_a_finding_takes_severity_and_remedy_from_its_check() -> None:
    assert shape_mismatch() == Finding("shape-mismatch", "error", "a", "labelsTr/a.nii.gz", "3x3x2 voxels", "3x3x3",
                                       "resample the label map to the image's grid")


def test_a_refusal_becomes_a_finding_without_its_path() -> None:
    error = InputError("/home/me/a.nii.gz", found="no header", wanted="one", remedy="copy it", reason="not-an-image")
    assert finding_from(error, "a.nii.gz", "a") == \
        Finding("not-an-image", "error", "a", "a.nii.gz", "no header", "one", "copy it")


def test_a_refusal_of_an_unknown_kind_leaves_the_case_out() -> None:
    error = InputError("a", found="x", wanted="y", remedy="z", reason="something-new")
    finding = finding_from(error, "a")
    assert (finding.check, finding.severity, finding.case_id) == ("something-new", "error", None)
    assert "### something-new (error, 1)\n\nThe file was refused." in findings_as_markdown([finding])


def test_the_file_is_a_list_with_the_promised_keys(tmp_path: Path) -> None:
    write_findings(tmp_path / "audit.json", [shape_mismatch()])
    (written,) = json.loads((tmp_path / "audit.json").read_text())
    assert list(written) == ["check", "severity", "case_id", "file", "found", "wanted", "remedy"]


def test_counts_begin_with_the_most_frequent() -> None:
    empty = CHECKS["empty-label"].finding("x", found="", wanted="")
    assert counts_by_check([empty, shape_mismatch(), shape_mismatch()]) == "shape-mismatch 2, empty-label 1"


def test_a_section_for_each_check() -> None:
    empty = CHECKS["empty-label"].finding("labelsTr/b.nii.gz", "b", found="background only", wanted="a label")
    text = findings_as_markdown([shape_mismatch("a"), empty, shape_mismatch("c")])
    assert text.count("### ") == 2
    assert text.index("### shape-mismatch (error, 2)") < text.index("| a |") < text.index("| c |") \
        < text.index("### empty-label (warning, 1)") < text.index("| b |")


def test_odd_names_do_not_break_the_table() -> None:
    odd = CHECKS["unpaired-file"].finding("a|b\nc.nii", found="x", wanted="y")
    assert "|  | a\\|b c.nii | x | y |" in findings_as_markdown([odd])


def test_nothing_found() -> None:
    assert findings_as_markdown([]) == "Nothing was found amiss.\n"


def test_an_audit_without_index_says_why() -> None:
    refusal = InputError("data", found="no sound case among 1 listed", wanted="", remedy="", reason="no-sound-case")
    audit = Audit("tiny", 1, (finding_from(refusal, "."), shape_mismatch()), None, refusal)
    assert summary_line(audit) == "audit FAILED: no sound case among 1 listed; LEFT OUT: shape-mismatch 1"
    assert audit_as_markdown(audit).startswith("# Audit of tiny\n\naudit FAILED: no sound case")
