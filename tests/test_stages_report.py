"""The report of a fabricated experiment: its numbers, its pictures, one file that loads nothing."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_evaluation import EVALUATION, WORK, enter_experiment, write_predictions
from tiny_scores import absent, score

from pipeline import bundle
from pipeline.records.errors import InputError
from pipeline.records.tables import TrainingPoint, write_table
from pipeline.stages import evaluate, report
from pipeline.stages.report.charts import agreement_of, axis_over
from pipeline.stages.report.wording import Units

HTML, MARKDOWN = Path("reports/tiny/index.html"), Path("reports/tiny/report.md")
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects elements and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " " if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Returns the attributes of all elements of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def finish_experiment() -> None:
    """Writes what the stages beside evaluate leave behind."""
    history = [TrainingPoint(50 * epoch, epoch, 2.0 / epoch, 0.8125 if epoch == 4 else math.nan, 0.002)
               for epoch in range(1, 5)]
    write_table(WORK / "history.csv", TrainingPoint, history)
    (WORK / "plan.yaml").write_text("spacing_mm: [1.0, 1.0, 2.0]\nslice_axis: null\nnetwork_def: {_target_: UNet}\n"
                                     "patch_size: [8, 8, 4]\n")
    (WORK / "schedule.yaml").write_text("iterations: 40\nbatch_size: 8\naccumulation: 1\nmeasured: null\n")
    finding = {"check": "not-finite", "severity": "error", "case_id": "x9", "file": "imagesTr/x9.nii.gz",
               "found": "3 voxels <nan>", "wanted": "finite values", "remedy": "export it again"}
    (WORK / "audit.json").write_text(json.dumps([finding]))
    for folder in ("models", "configs"):
        (WORK / "bundle" / folder).mkdir(parents=True, exist_ok=True)
    # Memory ran out: in four parts of two.
    (WORK / "bundle/configs/train.yaml").write_text("batch_size: 2\naccumulation: 4\nprocesses: 1\n")
    (WORK / "bundle/models/model.pt.sha256").write_text("ab12cd  model.pt\n")
    (WORK / "bundle/docs").mkdir(exist_ok=True)
    (WORK / "bundle/docs/largest_component.json").write_text('{"chosen": ["organ"], "why": "set in bundle.yaml"}')
    evaluate.run("tiny")


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(bundle, "segment", write_predictions)
    enter_experiment(tmp_path, monkeypatch, depth=getattr(request, "param", 6))
    finish_experiment()


def page() -> Page:
    report.run("tiny")
    return Page(HTML.read_text())


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.usefixtures("experiment")
def test_the_page_answers_how_good_and_what_was_missed() -> None:
    text = words(page().text)
    # (0.583 + 0.471) / 2; t3 is the lost scan.
    assert "Mean test Dice 0.527 over 3 cases. Weakest label: lesion, 0.471. Worst case: t3, 0.000." in text
    assert "1 of 3 lesions found. 1 of 3 scans lost" in text
    assert "missed: lesion of 1.6 mm, 0.00 mL" in text
    assert "t3: organ, 0.06 mL of truth (scan lost: its gzip ends early)" in text
    assert "1-3 mm 0 1 0.00" in text
    assert "3-6 mm 1 2 0.50" in text


@pytest.mark.usefixtures("experiment")
def test_the_page_says_how_sure_it_is() -> None:
    text = words(page().text)
    # Organ: 0.75, 1 and 0 of three patients, of which one alone is drawn in 1 of 27 cases, more than the 2.5% left out.
    # Lesion: 0.941 of one patient, 0 of another. Wilson's intervals of 1 of 2 and of 1 of 1 are in every table of them.
    row = re.search(r"organ (0\.000 to 1\.000) .*? lesion (0\.000 to 0\.941) .*? (0\.50 ?0\.09 to 0\.91, 2 scans) "
                    r"(1\.00 ?0\.21 to 1\.00, 1 scan)", text)
    assert row is not None
    # Quartiles of the organ's 0, 0.75 and 1, and of the lesion's 0 and 16/17.
    assert re.search(r"a quarter above: .*? organ 0\.375 to 0\.875 .*? lesion 0\.235 to 0\.706", text)
    assert "lies within 1 mm of the other" in text
    assert "Of the predicted parts 1.00 touch a lesion (precision), F1 0.50; 0.00 parts a scan touch none." in text
    Path("configs/tiny/evaluation.yaml").write_text(EVALUATION + "surface_tolerance_mm: {lesion: 2.5}\n")
    assert "lies within 1 mm (organ), 2.5 mm (lesion) of the other" in words(page().text)


@pytest.mark.usefixtures("experiment")
def test_the_page_says_whether_the_model_knows_when_it_is_wrong() -> None:
    (WORK / "bundle/docs/confidence.json").write_text(json.dumps(
        {"temperature": 1.25, "ece_before": 0.05, "ece_after": 0.01, "cases": [{"quality": 0.9, "dice": 0.8}]}))
    text = words(page().text)
    # 17 of 1440 voxels are wrong, all are 80% sure; t1 is 0.846 where 0.8 is expected, t2 1 instead of 0.95.
    assert "off by 18.82 percentage points in the mean (expected calibration error, 1,440 voxels of test cases)" in text
    assert "divided by 1.25, which fits the validation cases best (5.0 points before, 1.0 after, there)" in text
    assert "Over 2 test cases it is 0.048 off in the mean, too careful by 0.048." in text
    assert "It called 1 of 2 scans not sure (t1); 1 of them has a low Dice." in text


@pytest.mark.usefixtures("experiment")
def test_the_page_shows_groups_regions_and_how_volumes_agree() -> None:
    Path("configs/tiny/evaluation.yaml").write_text(
        EVALUATION + "regions: {whole: [organ, lesion]}\nsubgroups: [orientation]\n")
    evaluate.run("tiny")
    text = words(page().text)
    # Three patients with Dice of organ 0.75, 1, 0 and of lesion 16/17 and 0.
    assert re.search(r"Axes point RAS 3 3 0\.527 ?0\.\d+ to", text)
    assert re.search(r"whole ?region: organ, lesion 3", text)
    # The organ is as large as it is; of the lesions one voxel of 0.002 mL is lost.
    assert "organ: in the mean +0.00 mL; 95% of cases are expected between +0.00 and +0.00" in text
    assert "lesion: in the mean −0.00 mL" in text


def test_limits_of_agreement_by_hand() -> None:
    rows = [replace(score(name, 0.5), truth_ml=10.0, prediction_ml=volume)
            for name, volume in (("a", 11.0), ("b", 12.0), ("c", 9.0))]
    found = agreement_of("organ", [*rows, score("lost", 0.0, status="failed"), absent("d")], Units())
    assert found is not None
    # Differences of 1, 2 and -1: their standard deviation is the root of 7/3.
    assert found.volumes == [("a", 10.0, 11.0), ("b", 10.0, 12.0), ("c", 10.0, 9.0)]
    assert [point[1:] for point in found.points] == [(10.5, 1.0), (11.0, 2.0), (9.5, -1.0)]
    assert (found.bias, found.high - found.bias) == (pytest.approx(2 / 3), pytest.approx(1.96 * (7 / 3) ** 0.5))
    assert agreement_of("organ", [absent("d")], Units()) is None
    alone = agreement_of("organ", rows[:1], Units(size="mm²", a_ml=1000.0))
    assert alone is not None
    assert (alone.bias, math.isnan(alone.high)) == (1000.0, True)


@pytest.mark.usefixtures("experiment")
def test_the_page_says_on_which_data_and_what_was_run() -> None:
    text = words(page().text)
    for expected in ("train 1 1 1 1", "validation 1 1 1 0", "test 3 3 3 2", "Licence CC0-1.0", "12 × 10 × 6 voxels",
                     "1 × 1 × 2 mm", "not-finite error imagesTr/x9.nii.gz 3 voxels <nan>", "slice_axis none",
                     "_target_: UNet", "ab12cd", "the last point are kept (best: 0.812 at iteration 200)",
                     "iterations 40", "batch_size 2", "accumulation 4",
                     "Research: organ, lesion in CT scans like those of its data.", "Diagnosis, treatment or any",
                     "Only the largest component of organ is kept, as bundle.yaml says.",
                     "Training loss, last 0.500", "Research use only"):
        assert expected in text


@pytest.mark.usefixtures("experiment")
def test_the_page_is_one_file_that_loads_nothing() -> None:
    content = page()
    assert sorted(path.name for path in Path("reports/tiny").iterdir()) == ["index.html", "report.md"]
    html = HTML.read_text()
    assert re.search(r"https?:|//[a-z]+\.|@import|url\(", html) is None
    assert content.all("link") == content.all("iframe") == []
    assert all("src" not in script for script in content.all("script"))
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in content.all("img"))


@pytest.mark.usefixtures("experiment")
def test_pictures_and_charts_have_alternative_texts() -> None:
    content = page()
    # Worst t1, best t2, and the missed lesion of t1; t3 has nothing to show.
    alternatives = [str(image["alt"]) for image in content.all("img")]
    assert [text.split(":")[0] for text in alternatives[:3]] == ["Missed lesion in t1", "Worst case t1", "Best case t2"]
    # Then each case that has a segmentation, worst first.
    assert alternatives[3:] == [f"{case}, three planes with both outlines" for case in ("v1", "t1", "t2")]
    assert "Dice organ 0.750, lesion 0.941" in alternatives[1]
    charts = [svg["aria-label"] for svg in content.all("svg")]
    # Dice by case, volumes and their differences of two labels, reliability, expected Dice, ROC, loss, validation Dice.
    assert len(charts) == 10
    assert all(charts)
    # Five defined Dice values of test cases, one validation; three volumes twice, one step, two cases, three limits.
    assert len(content.all("circle")) == 5 + 1 + 2 * 3 + 1 + 2 + 3


@pytest.mark.usefixtures("experiment")
def test_every_case_is_in_the_sortable_table() -> None:
    html = page() and HTML.read_text()
    (table,) = re.findall(r'<table class="sortable">.*?</table>', html, flags=re.DOTALL)
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)[1:]]
    # Eight distances of 0 and B's sqrt(5² + 4²) mm: the 95th percentile lies 0.6 of the way between the last two.
    # IoU 8 of 9; B's volume, a ninth of the truth, is lost.
    (row,) = (row for row in rows if row[:3] == ["t1", "test", "lesion"])
    assert row[3:8] == ["0.941", "0.889", "0.889", "1.000", "3.84"]
    assert row[10:] == ["0.02", "0.02", "−11.1", "0", "scored"]
    assert [row[:3] for row in rows[:3]] == [["t3", "test", "lesion"], ["t3", "test", "organ"],
                                             ["v1", "validation", "lesion"]]
    assert rows[-1] == ["t2", "test", "lesion", *"–––––––", "0.00", "0.00", "–", "0", "both", "empty"]
    assert table.count('<button type="button">') == 15


@pytest.mark.usefixtures("experiment")
def test_markdown_holds_the_same_numbers() -> None:
    report.run("tiny")
    text = MARKDOWN.read_text()
    assert "Mean test Dice 0.527 over 3 cases." in text
    assert "| organ | 3 | 0.583 | 0.750 | 0.000 | 0.583 |" in text
    assert "| 3-6 mm | 1 | 2 | 0.50 |" in text
    # t2 alone, which has no lesion and an organ of Dice 1, is drawn in 1 of 27 cases.
    assert "patients drawn anew: Dice 0.000 to 1.000, recall" in text
    assert "lesion: precision 1.00, F1 0.50, 0.00 false ones a scan." in text
    assert "| t3 (lost: its gzip ends early) | 0.000 |" in text
    assert "1 train, 1 validation, 3 test cases. 1 audit finding." in text


@pytest.mark.usefixtures("experiment")
def test_a_rerun_gives_the_same_bytes() -> None:
    report.run("tiny")
    first = HTML.read_bytes(), MARKDOWN.read_bytes()
    report.run("tiny")
    assert (HTML.read_bytes(), MARKDOWN.read_bytes()) == first


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize("experiment", [1], indirect=True)
def test_2d_images_are_shown_as_one_picture_each() -> None:
    content = page()
    assert "the circle of equal area" in words(content.text)
    assert [str(image["alt"]).split(" with ")[0] for image in content.all("img")] == [
        "Worst case t1: image", "Best case t2: image", *(f"{case}, image" for case in ("v1", "t1", "t2"))]
    assert all(int(str(image["width"])) == 384 for image in content.all("img"))


@pytest.mark.usefixtures("experiment")
def test_names_cannot_inject_markup() -> None:
    path = WORK / "cases.csv"
    path.write_text(path.read_text().replace("t3,", "<script>alert(1)</script>,"))
    report.run("tiny")
    assert "<script>alert" not in HTML.read_text()
    assert "&lt;script&gt;alert" in HTML.read_text()


@pytest.mark.usefixtures("experiment")
def test_an_experiment_without_test_cases_has_a_report() -> None:
    path = WORK / "index.json"
    content: dict[str, Any] = json.loads(path.read_text())
    content["cases"] = [case for case in content["cases"] if case["split"] != "test"]
    path.write_text(json.dumps(content))
    evaluate.run("tiny")
    assert "No test case has a score." in words(page().text)


@pytest.mark.usefixtures("experiment")
def test_without_pictures_and_lesions_there_is_a_report() -> None:
    Path("configs/tiny/evaluation.yaml").write_text("pictures: 0\nviewer_cases: 0\n")
    evaluate.run("tiny")
    content = page()
    assert content.all("img") == content.all("canvas") == []
    assert "found by size" not in content.text
    assert "No label is scored lesion by lesion." in MARKDOWN.read_text()
    assert EVALUATION.count("lesion") == 3  # the fixture has them, so the lines above could fail


@pytest.mark.usefixtures("experiment")
def test_a_missing_table_is_an_input_error_and_nothing_is_written() -> None:
    (WORK / "history.csv").unlink()
    with pytest.raises(InputError, match=r"work/tiny/history\.csv: no such file"):
        report.run("tiny")
    assert not HTML.exists()


@pytest.mark.parametrize(("values", "expected"), [
    ([0.82, 0.97, 1.0], (0.8, 0.85, 0.9, 0.95, 1.0)),
    ([0.0, 1.0], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ([0.0, 3000.0], (0.0, 1000.0, 2000.0, 3000.0)),
    ([0.9, 0.9], None),
    ([1.0], None),
    ([], (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ([0.0], None),
    ([-1.5, 0.25], (-1.5, -1.0, -0.5, 0.0, 0.5)),
])
def test_axes_have_round_ticks_around_all_values(values: list[float], expected: tuple[float, ...] | None) -> None:
    axis = axis_over(values)
    assert expected is None or axis.ticks == expected
    assert 2 <= len(axis.ticks) <= 6
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)


def test_the_stage_starts_without_torch() -> None:
    code = "import sys, pipeline.stages.report; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
