import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import tiny_content
from tiny_scores import score

from pipeline.commands import compare
from pipeline.records.errors import InputError
from pipeline.records.tables import CaseScore, write_table
from pipeline.tracking.complete import complete_run
from pipeline.tracking.models import champion_of

A = [score(f"c{i:02}", 0.6) for i in range(12)]
B = [score(f"c{i:02}", 0.7 + i / 1000) for i in range(12)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_table(Path("work/old/cases.csv"), CaseScore, A)
    write_table(Path("work/new/cases.csv"), CaseScore, B)
    return tmp_path


def arguments(a: str = "old", b: str = "new", **given: object) -> Namespace:
    return Namespace(**{"a": a, "b": b, "metrics": list(compare.METRICS), "split": None, "output": None,
                        "promote": False, **given})


def test_it_says_which_run_is_better_and_writes_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    compare.run(arguments(output=Path("out/comparison.md")))
    text = capsys.readouterr().out
    assert text.startswith("# new (B) against old (A)\n\n12 test scans of 12 patients, with the same truth in both.\n")
    # 0.7 to 0.711 against 0.6; all of 12 alike are 2 of 2 ** 12 ways to give signs.
    assert "| dice | organ | 0.6000 | 0.7055 | +0.1055 |" in text
    assert "| 0.0005 | +1.00 | 12, 0 of 12 | better |" in text
    assert Path("out/comparison.md").read_text() == text


def test_a_table_may_be_anywhere_and_scans_of_one_run_alone_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(Path("elsewhere.csv"), CaseScore, B[2:])
    compare.run(arguments(b="elsewhere.csv", metrics=["dice"]))
    assert "10 test scans of 10 patients, with the same truth in both. Left out, because the other run lacks them: " \
           "2 of A, 0 of B." in capsys.readouterr().out


def test_validation_scans_are_compared_where_one_run_has_no_test_scans(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(Path("work/new/cases.csv"), CaseScore, [replace(row, split="validation") for row in B])
    write_table(Path("work/old/cases.csv"), CaseScore, [*A, *(replace(row, split="validation") for row in A[:3])])
    compare.run(arguments(metrics=["dice"]))
    assert "3 validation scans" in capsys.readouterr().out


@pytest.mark.parametrize(("rows", "reason"), [
    ([replace(B[0], truth_ml=11.0)], "other-truth"), ([replace(B[0], case_id="z")], "nothing-shared"),
])
def test_runs_on_other_scans_or_truths_are_refused(rows: list[CaseScore], reason: str) -> None:
    write_table(Path("work/new/cases.csv"), CaseScore, rows)
    with pytest.raises(InputError) as refused:
        compare.run(arguments())
    assert refused.value.reason == reason


@pytest.fixture
def champion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A champion whose run has the scores `A`, and the experiment `new` with another version; returns its model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setattr(compare, "lineage_of_training", lambda _: "lineage-b")
    Path("work/new/index.json").write_text("{}")
    for lineage, rows in (("lineage-a", A), ("lineage-b", B)):
        Path(lineage).mkdir()
        content = tiny_content(folder / lineage)
        write_table(folder / lineage / "cases.csv", CaseScore, rows)
        complete_run("new", lineage=lineage, content=content)
    assert champion_of("new") == "lineage-a"
    return "segline-new"


def test_the_champion_gives_way_to_what_is_better_only_when_told_to(
    champion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.run(arguments(a="champion"))
    assert "# new (B) against champion (A)" in capsys.readouterr().out
    assert champion_of("new") == "lineage-a"
    compare.run(arguments(a="champion", promote=True))
    assert capsys.readouterr().out.endswith("new is the champion now: version 2 of segline-new.\n")
    assert champion_of("new") == "lineage-b"
    compare.run(arguments(a="champion", promote=True))
    assert capsys.readouterr().out.endswith("new is the champion already.\n")


@pytest.mark.parametrize("rows", [A, [replace(row, recall=0.3) for row in B]], ids=["no better", "worse recall"])
@pytest.mark.usefixtures("champion")
def test_the_champion_stays_where_dice_is_no_better_or_recall_is_worse(
    rows: list[CaseScore], capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(Path("work/new/cases.csv"), CaseScore, rows)
    compare.run(arguments(a="champion", promote=True))
    assert "The champion stays" in capsys.readouterr().out
    assert champion_of("new") == "lineage-a"


def test_without_a_champion_or_an_experiment_nothing_is_promoted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    with pytest.raises(InputError, match="the champion of new: no such model in MLflow"):
        compare.run(arguments(a="champion"))
    with pytest.raises(InputError, match="--promote: old against new; expected champion EXPERIMENT"):
        compare.run(arguments(promote=True))


def test_an_experiment_without_results_is_one_line() -> None:
    command = [sys.executable, "-m", "pipeline", "compare", "old", "nwe"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("error: work/nwe/cases.csv: no such file; expected a table of an earlier stage; run the "
                           "stages before this one: make repro EXPERIMENT=<name>\n")
