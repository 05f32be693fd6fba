"""Where results come from: the digest of everything that could change a training's weights, and the commit."""

import subprocess
from importlib.metadata import version
from pathlib import Path

from pipeline.records.files import sha256_of_file, sha256_of_text
from pipeline.records.strict_yaml import read_yaml

DVC_FILE = Path("dvc.yaml")
# Changed by running an experiment, and without effect on its results.
BOOKKEEPING = ("configs/active.yaml", "configs/trainings.yaml", "dvc.lock")
# What can change a result, and so is named wherever results are.
PACKAGES = ("segline", "torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom")


def lineage_of_training(experiment: str) -> str:
    """Returns the SHA-256 over what `dvc.yaml` lists as train's dependencies, by name and content, and the packages.

    It is the same for all folds of an experiment.

    A dependency that is a folder is stood for by its `manifest.json`, which holds its files' digests.
    """
    dependencies = read_yaml(DVC_FILE)["stages"]["train"]["do"]["deps"]
    paths = sorted(str(entry).replace("${item.experiment}", experiment) for entry in dependencies)
    lines = [f"{path} {_digest(Path(path))}" for path in paths]
    return sha256_of_text("\n".join([*lines, *(f"{name}=={found}" for name, found in package_versions().items())]))


def package_versions() -> dict[str, str]:
    """Returns the installed version of each package in `PACKAGES`."""
    return {name: version(name) for name in PACKAGES}


def git_commit() -> str:
    """Returns the checkout's commit, with `-dirty` where tracked files differ from it; `unknown` outside git."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in BOOKKEEPING))
    return f"{commit}-dirty" if commit and changed else commit or "unknown"


def _git(*words: str) -> str:
    try:
        result = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _digest(path: Path) -> str:
    return sha256_of_file(path / "manifest.json" if path.is_dir() else path)
