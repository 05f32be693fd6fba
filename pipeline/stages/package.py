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
from pipeline.records.index import Index, read_index
from pipeline.records.lineage import git_commit, package_versions
from pipeline.records.model_card import markdown_card
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
        card = markdown_card(experiment, index, plan, metrics, postprocessing_of(folders.bundle))
        write_text(aside / "docs/README.md", usage + card)
        write_text(aside / "docs/data_license.txt", f"{index.dataset}: {index.licence}\n")
        shutil.copyfile(folders.plan, aside / "docs/plan.yaml")
        shutil.copyfile(folders.schedule, aside / "docs/schedule.yaml")
        shutil.copyfile(folders.metrics, aside / "docs/metrics.json")
        write_json(aside / "docs/provenance.json", _provenance(experiment, index))
        write_text(aside / "checksums.sha256", _checksums(aside))
    with written_aside(folders.model.with_suffix(".zip")) as aside:
        write_zip(folders.model, aside)
    print(f"package: {folders.model} and {folders.model}.zip")


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
