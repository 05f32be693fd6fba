"""Why Dice and cross entropy are trained by together: each alone against both, and what it does to small lesions.

    python benchmarks/losses.py [--folder DIR] [--data data/raw] [--experiments hippocampus_3d phantom_3d] \\
      [--losses dice_ce dice cross_entropy] [--class-weights planned] [--seeds 0 1 2] [--iterations N]

Every run is Segline's own stages on a copy of the project: the same split, plan, cache and iterations (those of the
experiment's bundle.yaml, where none are given); only `loss`, `seed` and, with `--class-weights planned equal`, the
classes' weights differ. Scores are over the validation and test cases, which no training has seen and by which nothing
is chosen. The plan's class weights multiply each label's Dice and each voxel's cross entropy; they are equal unless a
label is below 1 % of the voxels.

What is finished is kept in DIR/results.json, so that the same command goes on after an interruption, in the middle of
a training too. The code is copied when DIR is new: all runs in it are of that code.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from pipeline.records.files import write_json
from pipeline.records.plan import LOSSES
from pipeline.records.summaries import mean_of_defined, size_class, size_classes
from pipeline.records.tables import CaseScore, LesionScore, read_table

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ("planned", "equal")
Runs = list[dict[str, Any]]


def lay_out(folder: Path, experiment: str, data: Path) -> Path:
    """Returns a copy of the project with the experiment's index and cache, made where there is none yet."""
    project = folder / experiment
    if (project / f"work/{experiment}/cache").is_dir():
        return project
    shutil.rmtree(project, ignore_errors=True)
    for name in ("bundles", "pipeline", f"configs/{experiment}"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copyfile(ROOT / name, project / name)
    dataset = yaml.safe_load((project / f"configs/{experiment}/data.yaml").read_text())["dataset"]
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw" / dataset).symlink_to((data / dataset).resolve())
    run_stages(project, experiment, "audit", "plan", "preprocess")
    return project


def run_stages(project: Path, experiment: str, *stages: str) -> float:
    """Runs stages of the project's own code in its folder; returns the seconds."""
    start = perf_counter()
    for stage in stages:
        subprocess.run([sys.executable, "-m", "pipeline", stage, "--experiment", experiment], cwd=project, check=True,
                       stdout=sys.stderr)
    return perf_counter() - start


def run_once(project: Path, experiment: str, *, loss: str, weights: str, seed: int, iterations: int | None
             ) -> dict[str, Any]:
    """Trains and evaluates once; returns the scores of each label, the lesions, and what was trained with."""
    chosen = yaml.safe_load((ROOT / f"configs/{experiment}/bundle.yaml").read_text()) | {
        "loss": loss, "seed": seed, "largest_component": []}  # else validation cases, which are scored here, choose it
    if iterations is not None:
        chosen = {key: value for key, value in chosen.items() if key not in ("budget", "preset", "validate_every")}
        chosen["iterations"] = iterations
    work = project / "work" / experiment
    if weights == "equal":
        labels = json.loads((work / "index.json").read_text())["labels"]
        chosen["class_weights"] = [1.0] * (len(labels) + 1)
    (project / f"configs/{experiment}/bundle.yaml").write_text(yaml.safe_dump(chosen))
    run_stages(project, experiment, "plan", "schedule")
    seconds = run_stages(project, experiment, "train")
    run_stages(project, experiment, "evaluate")
    plan, schedule = (yaml.safe_load((work / name).read_text()) for name in ("plan.yaml", "schedule.yaml"))
    rows = read_table(work / "cases.csv", CaseScore)
    lesions = read_table(work / "lesions.csv", LesionScore)
    return {
        "cases": len({row.case_id for row in rows}), "seconds": round(seconds), "iterations": schedule["iterations"],
        "class_weights": plan["class_weights"],
        "labels": {label: scores_of([row for row in rows if row.label == label]) for label in plan["labels"]},
        "lesions": [[lesion.diameter_mm, lesion.found] for lesion in lesions],
    }


def scores_of(rows: Sequence[CaseScore]) -> dict[str, float]:
    """Returns one label's mean Dice and recall over the cases where they are defined, and its false components."""
    return {"dice": mean_of_defined(row.dice for row in rows), "recall": mean_of_defined(row.recall for row in rows),
            "false": sum(row.false_positive_components for row in rows)}


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Returns ``mean (smallest to largest)``."""
    known = list(values)
    return f"{statistics.fmean(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def write_tables(results: dict[str, Runs], experiment: str, edges_mm: tuple[float, ...]) -> None:
    """Prints the experiment's tables; `results` has the runs, seed by seed, of each row's name."""
    first = next(iter(results.values()))[0]
    labels = list(first["labels"])
    print(f"\n### {experiment}: {first['cases']} held-out cases, {first['iterations']} iterations, "
          f"{max(map(len, results.values()))} seeds: mean (smallest to largest)\n")
    heads = ["loss", "class weights", "mean Dice", "mean recall",
             *(f"{label} {what}" for label in labels for what in ("Dice", "recall", "false components")), "seconds"]
    print_rows(heads, ([name, ", ".join(f"{weight:g}" for weight in runs[0]["class_weights"]),
                        *(spread(statistics.fmean(run["labels"][label][what] for label in labels) for run in runs)
                          for what in ("dice", "recall")),
                        *(spread((run["labels"][label][what] for run in runs), 1 if what == "false" else 3)
                          for label in labels for what in ("dice", "recall", "false")),
                        f"{statistics.fmean(run['seconds'] for run in runs):.0f}"] for name, runs in results.items()))
    if first["lesions"]:
        classes: dict[str, Callable[[float], bool]] = {"all": lambda _: True}
        for kind in size_classes(edges_mm):
            classes[kind] = lambda diameter, kind=kind: size_class(diameter, edges_mm) == kind
        counts = {kind: sum(map(holds, (diameter for diameter, _ in first["lesions"]))) for kind, holds in
                  classes.items()}
        shown = [kind for kind, count in counts.items() if count]
        print("\nRecall of lesions by diameter:\n")
        print_rows(["loss", *(f"{kind} ({counts[kind]})" for kind in shown)],
                   ([name, *(spread((statistics.fmean(found for diameter, found in run["lesions"]
                                                      if classes[kind](diameter)) for run in runs), 2)
                             for kind in shown)] for name, runs in results.items()))


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a markdown table."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Runs what is not in the results yet, seed by seed, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="kept, to go on from; else a temporary one")
    parser.add_argument("--data", type=Path, default=ROOT / "data/raw")
    parser.add_argument("--experiments", nargs="+", default=["hippocampus_3d", "phantom_3d"])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["dice_ce", "dice", "cross_entropy"])
    parser.add_argument("--class-weights", nargs="+", choices=WEIGHTS, default=["planned"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int)
    arguments = parser.parse_args()
    rows = [(loss, weights) for weights in arguments.class_weights for loss in arguments.losses]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        kept = folder / "results.json"
        results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}

        def result_of(experiment: str, loss: str, weights: str, seed: int) -> dict[str, Any]:
            key = f"{experiment} {loss} {weights} seed {seed} iterations {arguments.iterations or 'own'}"
            if key not in results:
                project = lay_out(folder, experiment, arguments.data)
                results[key] = run_once(project, experiment, loss=loss, weights=weights, seed=seed,
                                        iterations=arguments.iterations)
                write_json(kept, results)
                scores = {label: round(found["dice"], 4) for label, found in results[key]["labels"].items()}
                print(f"{key}: Dice {scores}", file=sys.stderr, flush=True)
            return results[key]

        for experiment in arguments.experiments:
            found: dict[str, Runs] = {}
            for seed in arguments.seeds:
                for loss, weights in rows:
                    found.setdefault(loss if weights == "planned" else f"{loss}, equal weights", []).append(
                        result_of(experiment, loss, weights, seed))
            evaluation = yaml.safe_load((ROOT / f"configs/{experiment}/evaluation.yaml").read_text())
            write_tables(found, experiment, tuple(evaluation.get("lesion_diameters_mm", ())))


if __name__ == "__main__":
    main()
