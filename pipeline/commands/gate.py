"""`python -m pipeline gate --against REV`: fails where recall or Dice fell by more than chance explains."""

import argparse
import sys
from pathlib import Path

from pipeline.commands.compare import common_split, extent_of, read_scores_at, scans_of_both
from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.folders import ExperimentFolders
from pipeline.records.paired import Difference, compare_runs, markdown_of
from pipeline.records.settings import CONFIGS
from pipeline.records.split_metrics import OVERALL
from pipeline.records.strict_yaml import read_yaml
from pipeline.records.tables import CaseScore, read_table

METRICS = ("dice", "recall")
HOW = ("A is {revision}, B this checkout. A mean over labels fell where the whole 95% interval of the paired\n"
       "difference, by bootstrap over patients, lies below {floor}; a label where its p-value, corrected for the\n"
       "number of labels, says so as well.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--against", required=True, metavar="REV", help="a revision of git whose dvc.lock has results")
    parser.add_argument("--experiment", action="append", help="may be repeated (default: all of configs/active.yaml)")
    parser.add_argument("--allow", type=float, default=0.0, metavar="FALL", help="of Dice and recall (default: 0)")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="writes what is printed, for a pull request")


def run(arguments: argparse.Namespace) -> None:
    """Compares the results of this checkout with those of a revision, and prints Markdown.

    Raises:
        SystemExit: 1 where something fell, 2 where something could not be compared.
    """
    if not arguments.allow >= 0:
        raise InputError("--allow", found=f"{arguments.allow:g}", wanted="0 or more", remedy="write for instance 0.005",
                         reason="bad-number")
    experiments = arguments.experiment or read_yaml(CONFIGS / "active.yaml")["experiments"]
    parts, fallen, lost = [], [], []
    for experiment in experiments:
        try:
            extent, differences = _compare(experiment, arguments.against)
        except InputError as error:
            lost.append(experiment)
            parts.append(f"## {experiment}: not compared\n\n{error}\n")
            continue
        those = [one for one in differences if has_fallen(one, arguments.allow)]
        fallen += those
        said = ", ".join(f"{one.metric} ({one.label})" for one in those)
        title = f"{said} fell" if those else "nothing fell"
        parts.append(f"## {experiment}: {title}\n\n{extent}\n\n{markdown_of(differences)}")
    verdict = "failed" if fallen else "incomplete" if lost else "passed"
    how = HOW.format(revision=arguments.against, floor=f"−{arguments.allow:g}" if arguments.allow else "0")
    text = "\n".join([f"# Gate {verdict}\n", *parts, f"{how}\n"])
    print(text, end="")
    if arguments.output:
        write_text(arguments.output, text)
    sys.exit(1 if fallen else 2 if lost else 0)


def has_fallen(difference: Difference, allowed: float) -> bool:
    """Returns whether chance does not explain a fall, of a label not even as one of several."""
    is_below = difference.interval.high < -allowed
    return is_below and (difference.label == OVERALL or difference.verdict == "worse")


def _compare(experiment: str, revision: str) -> tuple[str, list[Difference]]:
    tables = read_scores_at(experiment, revision), read_table(ExperimentFolders(experiment).case_table, CaseScore)
    split = common_split(tables)
    a, b = scans_of_both(*tables, split=split, names=(f"{experiment}@{revision}", experiment))
    return extent_of(tables, a, split), [one for metric in METRICS for one in compare_runs(a, b, metric)]
