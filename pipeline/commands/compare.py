"""`python -m pipeline compare A B`: whether run B is better than run A, by the scans that both have segmented."""

import argparse
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import Split
from pipeline.records.lineage import lineage_of_training
from pipeline.records.paired import HIGHER_IS_BETTER, compare_runs, markdown_of
from pipeline.records.tables import CaseScore, read_table, table_in

CHAMPION = "champion"
METRICS = ("dice", "recall", "nsd")
ROUNDING_ML = 2e-6  # of the six decimals in a table
HOW = ("Mean differences over the scans of both, with 95% intervals by bootstrap over patients; p by exchanging the\n"
       "runs patient by patient, corrected for the number of labels (Holm); effect is the rank-biserial correlation,\n"
       "from −1 (A better in every patient) to 1.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    where = "an experiment, EXPERIMENT@REVISION of git, or the path of a cases.csv"
    parser.add_argument("a", metavar="A", help=f"{where}; `{CHAMPION}`: the champion of B's registered model")
    parser.add_argument("b", metavar="B", help=where)
    parser.add_argument("--promote", action="store_true", help="makes B the champion if it is better; A is `champion`")
    parser.add_argument("--metrics", nargs="+", choices=sorted(HIGHER_IS_BETTER), default=list(METRICS))
    parser.add_argument("--split", choices=("test", "validation"), help="whose scans (default: test if both have it)")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="writes there what is printed")


def run(arguments: argparse.Namespace) -> None:
    """Prints the comparison as Markdown.

    Raises:
        InputError: a table is missing or damaged, or the runs have no scan with the same truth in common.
    """
    if arguments.promote and (arguments.a != CHAMPION or not ExperimentFolders(arguments.b).index.is_file()):
        raise InputError("--promote", found=f"{arguments.a} against {arguments.b}", wanted="champion EXPERIMENT",
                         remedy=f"write `compare champion {arguments.b.partition('@')[0]} --promote`",
                         reason="no-promotion")
    tables = [read_champion(arguments.b) if arguments.a == CHAMPION else read_scores(arguments.a),
              read_scores(arguments.b)]
    split = arguments.split or common_split(tables)
    a, b = scans_of_both(tables[0], tables[1], split=split, names=(arguments.a, arguments.b))
    differences = [one for metric in arguments.metrics for one in compare_runs(a, b, metric)]
    text = "\n".join([f"# {arguments.b} (B) against {arguments.a} (A)\n", f"{extent_of(tables, a, split)}\n",
                      markdown_of(differences), f"{HOW}\n"])
    print(text, end="")
    if arguments.output:
        write_text(arguments.output, text)
    if arguments.promote:
        print(f"\n{promoted(arguments.b, is_better(a, b))}")


def is_better(a: Sequence[CaseScore], b: Sequence[CaseScore]) -> bool:
    """Returns whether B has shown a better mean Dice, and no worse recall: a miss costs more than a false find."""
    dice, recall = (compare_runs(a, b, metric)[:1] for metric in ("dice", "recall"))
    return any(one.verdict == "better" for one in dice) and not any(one.verdict == "worse" for one in recall)


def promoted(experiment: str, is_shown_better: bool) -> str:
    """Returns which version is the champion, after B has become it where it was shown to be better."""
    from pipeline.tracking.models import champion_of, model_name, move_champion

    lineage = lineage_of_training(experiment)
    if champion_of(experiment) == lineage:
        return f"{experiment} is the champion already."
    if not is_shown_better:
        return "The champion stays: no better mean Dice is shown, or recall is worse."
    return f"{experiment} is the champion now: version {move_champion(experiment, lineage=lineage)} of " \
           f"{model_name(experiment)}."


def read_champion(experiment: str) -> tuple[CaseScore, ...]:
    """Reads the table of the champion's run from MLflow.

    Raises:
        InputError: ``no-champion``, ``tracking-store``, ``bad-table``.
    """
    from pipeline.tracking.models import champion_table

    name = experiment.partition("@")[0]
    where = f"the champion of {name}"
    text = champion_table(name)
    if text is None:
        raise InputError(where, found="no such model in MLflow", wanted="a run that the track stage completed",
                         remedy=f"run `make repro EXPERIMENT={name}` first", reason="no-champion")
    return table_in(io.StringIO(text), CaseScore, where=where)


def read_scores(name: str) -> tuple[CaseScore, ...]:
    """Reads the table of a run: an experiment, one at a revision of git (from DVC's cache), or a file.

    Raises:
        InputError: ``missing-table``, ``bad-table``, ``unknown-revision``.
    """
    if Path(name).is_file():
        return read_table(Path(name), CaseScore)
    experiment, at, revision = name.rpartition("@")
    if not at:
        return read_table(ExperimentFolders(name).case_table, CaseScore)
    return read_scores_at(experiment, revision)


def read_scores_at(experiment: str, revision: str) -> tuple[CaseScore, ...]:
    """Reads an experiment's table as it was at a revision of git: what `dvc.lock` names there, from DVC's cache.

    Raises:
        InputError: ``unknown-revision``, ``missing-table``, ``bad-table``.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    path = ExperimentFolders(experiment).case_table
    where = f"{path} at {revision}"
    try:
        text = dvc.api.read(path.as_posix(), rev=revision)
    except SCMError as error:
        raise InputError(where, found=f"no such revision ({error})", wanted="a commit, branch or tag",
                         remedy="fetch it, or name another", reason="unknown-revision") from error
    except DvcException as error:
        raise InputError(where, found="no table in DVC's cache", wanted="a commit whose dvc.lock has it",
                         remedy="commit dvc.lock after `make repro`; with a remote, run `dvc fetch --all-commits`",
                         reason="missing-table") from error
    return table_in(io.StringIO(text), CaseScore, where=where)


def common_split(tables: Iterable[Sequence[CaseScore]]) -> Split:
    """Returns ``test`` if every table has test scans, else ``validation``."""
    return "test" if all(any(row.split == "test" for row in rows) for rows in tables) else "validation"


def scans_of_both(a: Sequence[CaseScore], b: Sequence[CaseScore], *, split: Split,
                  names: tuple[str, str]) -> tuple[list[CaseScore], list[CaseScore]]:
    """Returns the rows of a split's scans that both tables have.

    Raises:
        InputError: ``nothing-shared``, or ``other-truth``: the same scan and label has another volume of truth.
    """
    first, second = ({(row.case_id, row.label): row for row in rows if row.split == split} for rows in (a, b))
    shared = [key for key in first if key in second]
    if not shared:
        raise InputError(f"{names[0]}, {names[1]}", found=f"no {split} scan and label that both have",
                         wanted="runs on the same scans", reason="nothing-shared",
                         remedy="compare runs whose data.yaml names the same dataset and split")
    for case, label in shared:
        volumes = [table[case, label].truth_ml for table in (first, second)]
        if not math.isclose(*volumes, rel_tol=1e-6, abs_tol=ROUNDING_ML):
            raise InputError(f"{names[0]}, {names[1]}", wanted="the same truth in both", reason="other-truth",
                             found=f"{label} of {case} is {volumes[0]:g} and {volumes[1]:g} mL",
                             remedy="evaluate both on the same labels")
    return [first[key] for key in shared], [second[key] for key in shared]


def extent_of(tables: Sequence[Sequence[CaseScore]], shared: Sequence[CaseScore], split: Split) -> str:
    """Returns in words which scans a comparison is over, and how many it leaves out."""
    scans = {row.case_id for row in shared}
    alone = [len({row.case_id for row in rows if row.split == split} - scans) for rows in tables]
    left_out = f" Left out, because the other run lacks them: {alone[0]} of A, {alone[1]} of B." if any(alone) else ""
    patients = len({row.patient for row in shared})
    return f"{len(scans)} {split} scans of {patients} patients, with the same truth in both.{left_out}"

