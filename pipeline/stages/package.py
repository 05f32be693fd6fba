"""bundle, tables -> models/<exp>/ and models/<exp>.zip: the bundle unchanged, and what its next user must know."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.records.bundles import batches_of_training
from pipeline.records.files import folder_written_aside, sha256_of_file, write_json, write_text, written_aside
from pipeline.records.folders import TEMPLATE, ExperimentFolders
from pipeline.records.index import Index, main_split, read_index
from pipeline.records.lineage import git_commit, package_versions
from pipeline.records.postprocessing import postprocessing_of

LOCK = Path("requirements.lock")
# Zip keeps times; the earliest it can say stands for "no time", so that the same bundle gives the same bytes.
NO_TIME = (1980, 1, 1, 0, 0, 0)


def run(experiment: str) -> None:
    """Packages one experiment's trained bundle as a folder and as a zip that unpacks to that folder."""
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    metrics = json.loads(folders.metrics.read_text(encoding="utf-8"))
    # What the plan leaves to the schedule stands there.
    plan = {name: value for path in (folders.plan, folders.schedule)
            for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items()}
    plan |= batches_of_training(folders.bundle)
    with folder_written_aside(folders.model) as aside:
        shutil.copytree(folders.bundle, aside, dirs_exist_ok=True)
        shutil.copyfile(TEMPLATE / "LICENSE", aside / "LICENSE")
        usage = (TEMPLATE / "docs/README.md").read_text(encoding="utf-8")
        write_text(aside / "docs/README.md", usage + model_card(experiment, index, plan, metrics,
                                                                                 postprocessing_of(folders.bundle)))
        write_text(aside / "docs/data_license.txt", f"{index.dataset}: {index.licence}\n")
        shutil.copyfile(folders.plan, aside / "docs/plan.yaml")
        shutil.copyfile(folders.schedule, aside / "docs/schedule.yaml")
        shutil.copyfile(folders.metrics, aside / "docs/metrics.json")
        write_json(aside / "docs/provenance.json", _provenance(experiment, index))
        write_text(aside / "checksums.sha256", _checksums(aside))
    with written_aside(folders.model.with_suffix(".zip")) as aside:
        write_zip(folders.model, aside)
    print(f"package: {folders.model} and {folders.model}.zip")


def model_card(experiment: str, index: Index, plan: dict[str, Any], metrics: dict[str, Any],
               postprocessing: str = "") -> str:
    """Returns the part of the model card that is about this model: data, training, postprocessing, scores."""
    split = main_split(index)
    scores_of = metrics[split]
    grid = f"{plan['spacing_mm']} mm" if index.has_spacing else "the pictures' own pixels, whose size is not known"
    lines = [
        f"\n## This model: {experiment}\n",
        f"- Data: {index.dataset} ({index.modality}), {index.counts} cases; licence: {index.licence}.",
        f"- Network: {plan['network_def']['_target_']}, patch {plan['patch_size']} at {grid}; "
        f"{plan['iterations']} iterations of {plan['batch_size'] * plan['accumulation'] * plan['processes']} patches.",
        *_about_ensemble(index, metrics),
        *([f"- {postprocessing}"] if postprocessing else []),
        f"- {'Test' if split == 'test' else 'Out-of-fold'} scores over {scores_of['cases']} cases, in each scan's own "
        "space:\n",
        "| label | Dice | recall | precision |",
        "|---|---|---|---|",
    ]
    for label in index.labels:
        scores = " | ".join(_score(scores_of[name].get(label)) for name in ("dice", "recall", "precision"))
        lines.append(f"| {label} | {scores} |")
    return "\n".join(lines) + "\n"


def _about_ensemble(index: Index, metrics: dict[str, Any]) -> list[str]:
    if not index.folds:
        return []
    out_of_fold = metrics["validation"]
    return [
        f"- An ensemble of {index.folds} networks, each trained without another fold of the patients; their mean "
        f"decides, in {index.folds} times the time of one. `--members 0` lets the first alone decide, `--members 0,2` "
        "two.",
        f"- Out of fold, each case segmented by the one network that did not see it: mean Dice "
        f"{_score(out_of_fold['dice']['mean'])} over {out_of_fold['cases']} cases.",
    ]


def write_zip(folder: Path, target: Path) -> None:
    """Writes a folder as a zip with one top folder of its name; the same contents give the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", date_time=NO_TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


def _provenance(experiment: str, index: Index) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "dataset": index.dataset,
        "data_digest": index.data_digest,
        "data_licence": index.licence,
        "code_licence": "Apache-2.0",
        "git_commit": git_commit(),
        "packages": package_versions(),
        "requirements_lock_sha256": sha256_of_file(LOCK),
    }


def _checksums(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256_of_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)


def _score(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
