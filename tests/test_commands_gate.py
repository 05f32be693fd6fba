"""The gate against a real git repository whose results DVC keeps."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_scores import score

from pipeline.commands import gate
from pipeline.records.errors import InputError
from pipeline.records.tables import CaseScore, write_table

TABLE = Path("work/liver/cases.csv")
BEFORE = [score(f"c{i:02}", 0.8 + i / 1000, recall=0.9, label=label)
          for i in range(12) for label in ("organ", "lesion")]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository whose first commit has the results `BEFORE`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.org")
    Path("configs").mkdir()
    Path("configs/active.yaml").write_text("experiments: [liver]\n")
    write_table(TABLE, CaseScore, BEFORE)
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"], [*dvc, "add", "-q", str(TABLE)], ["git", "add", "-A"],
                    ["git", "commit", "-qm", "Results"], ["git", "tag", "before"]):
        subprocess.run(command, check=True, capture_output=True)


def gate_against(revision: str = "before", rows: Sequence[CaseScore] = BEFORE, **given: object) -> int:
    """Returns the exit code for results `rows`."""
    TABLE.unlink()
    write_table(TABLE, CaseScore, rows)
    with pytest.raises(SystemExit) as ended:
        gate.run(Namespace(**{"against": revision, "experiment": None, "allow": 0.0, "output": None, **given}))
    return int(ended.value.code or 0)


def changed(dice: float = 0.0, recall: float = 0.0, label: str = "") -> list[CaseScore]:
    """Returns `BEFORE` with more or less of both scores, in each second scan twice as much."""
    return [score(row.case_id, row.dice + dice * (1 + i // 2 % 2), recall=row.recall + recall * (1 + i // 2 % 2),
                  label=row.label) if label in row.label else row for i, row in enumerate(BEFORE)]


def test_the_same_and_better_results_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate_against() == 0
    assert gate_against(rows=changed(dice=0.01)) == 0
    assert capsys.readouterr().out.count("# Gate passed\n\n## liver: nothing fell\n\n12 test scans of 12 patients") == 2


def test_a_fall_of_dice_or_of_recall_alone_fails_and_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate_against(rows=changed(dice=-0.01), output=Path("comment.md")) == 1
    said = capsys.readouterr().out
    assert "# Gate failed\n\n## liver: dice (mean), dice (organ), dice (lesion) fell\n" in said
    assert Path("comment.md").read_text() == said
    assert gate_against(rows=changed(recall=-0.01)) == 1
    assert "## liver: recall (mean), recall (organ), recall (lesion) fell" in capsys.readouterr().out


def test_one_label_that_falls_is_not_hidden_by_another() -> None:
    rows = [*(row for row in changed(dice=0.02) if row.label == "organ"), *changed(dice=-0.01, label="lesion")]
    by_key = {(row.case_id, row.label): row for row in [*rows[12:], *rows[:12]]}
    assert gate_against(rows=list(by_key.values())) == 1


def test_a_fall_that_is_allowed_or_that_chance_explains_passes() -> None:
    assert gate_against(rows=changed(dice=-0.01), allow=0.05) == 0
    noisy = [score(row.case_id, row.dice + (0.05 if i % 4 < 2 else -0.06), recall=row.recall, label=row.label)
             for i, row in enumerate(BEFORE)]
    assert gate_against(rows=noisy) == 0


def test_what_cannot_be_compared_is_said_and_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate_against("nowhere") == 2
    assert "## liver: not compared\n\nwork/liver/cases.csv at nowhere: no such revision" in capsys.readouterr().out
    assert gate_against(experiment=["liver", "spleen"]) == 2
    said = capsys.readouterr().out
    assert "# Gate incomplete\n\n## liver: nothing fell" in said
    assert "work/spleen/cases.csv at before: no table in DVC's cache" in said


def test_an_allowance_below_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="--allow: -1; expected 0 or more"):
        gate.run(Namespace(against="before", experiment=None, allow=-1.0, output=None))
