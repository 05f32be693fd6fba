"""`python -m pipeline run --experiment NAME`: activates an experiment and reproduces its stages only."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.folders import RAW
from pipeline.records.settings import CONFIGS, read_data_settings
from pipeline.records.splits import refuse_impossible_folds
from pipeline.records.strict_yaml import read_yaml
from pipeline.records.trainings import OF_A_FOLD, TRAININGS, write_trainings

ACTIVE = CONFIGS / "active.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--experiment", required=True, help="a folder below configs/")


def run(arguments: argparse.Namespace) -> None:
    """Reproduces one experiment.

    Raises:
        InputError: there is no such experiment, or its raw data is missing.
        SystemExit: with DVC's exit code where it is not 0.
    """
    experiment = arguments.experiment
    _check_known(experiment)
    settings = read_data_settings(experiment)
    refuse_impossible_folds(settings.folds, where=CONFIGS / experiment / "data.yaml")
    dataset = settings.dataset
    if not (RAW / dataset).is_dir() and dataset not in phantoms():
        raise InputError(RAW / dataset, found="no such folder", wanted=f"the raw data of {experiment}",
                         remedy=f"run `python -m pipeline fetch {dataset}` (with `--from PATH` if you have it)",
                         reason="missing-data")
    activate(experiment, settings.folds)
    command = [sys.executable, "-m", "dvc", "repro", f"track@{experiment}"]
    # DVC's stages call `python`: it must be this one, also where its environment is not activated.
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code = subprocess.run(command, check=False, env=os.environ | {"PATH": search}).returncode
    if code:
        raise SystemExit(code)


def activate(experiment: str, folds: int | None) -> None:
    """Adds the experiment to `configs/active.yaml`, keeping its comments, and its trainings to DVC's; says so."""
    if experiment not in read_yaml(ACTIVE)["experiments"]:
        text = ACTIVE.read_text(encoding="utf-8").rstrip("\n")
        write_text(ACTIVE, f"{text}\n- {experiment}\n")
        print(f"{ACTIVE}: added {experiment}; `dvc repro` now runs it too")
    if write_trainings(experiment, folds, active=read_yaml(ACTIVE)["experiments"]):
        print(f"{TRAININGS}: {experiment} is trained {f'{folds} times, once for each fold' if folds else 'once'}")


def phantoms() -> list[str]:
    """Returns the datasets that `dvc repro` makes itself."""
    return list(read_yaml(Path("dvc.yaml"))["stages"]["phantom"]["matrix"]["dataset"])


def _check_known(experiment: str) -> None:
    known = sorted(path.parent.name for path in CONFIGS.glob("*/data.yaml"))
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", experiment) or experiment not in known:
        raise InputError(CONFIGS / experiment, found="no such experiment", wanted=f"one of {', '.join(known)}",
                         remedy="choose one, or copy a folder to begin your own", reason="unknown-experiment")
    if OF_A_FOLD.fullmatch(experiment):
        raise InputError(CONFIGS / experiment, found="a name that ends like that of a fold", wanted="another one",
                         remedy="rename the folder", reason="odd-name")
