"""The trainings of an experiment, one or one for each fold: how they are called, and which of them DVC runs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.records.errors import InputError
from pipeline.records.files import write_text
from pipeline.records.folders import ExperimentFolders
from pipeline.records.strict_yaml import read_yaml

TRAININGS = Path("configs/trainings.yaml")
OF_A_FOLD = re.compile(r"(.+)\.fold(\d+)")
HEADING = """\
# What `dvc repro` trains, and which experiments it makes ensembles of. Written by `python -m pipeline run` from `folds`
# in each experiment's data.yaml: change it there.
"""


@dataclass(frozen=True)
class Training:
    """One training of an experiment; `fold` is None where it has one training only."""

    experiment: str
    fold: int | None = None

    @property
    def name(self) -> str:
        """What DVC and the command line call it: `liver_3d`, or `liver_3d.fold0`."""
        return self.experiment if self.fold is None else f"{self.experiment}.fold{self.fold}"

    @property
    def entry(self) -> dict[str, str]:
        """What `dvc.yaml` fills in: the experiment, and the folder below `work/` that the training writes to."""
        written = ExperimentFolders(self.experiment, self.fold).bundle.parent
        return {"experiment": self.experiment, "folder": written.relative_to("work").as_posix()}


def training_named(name: str) -> Training:
    """Returns the training of a name such as `liver_3d` or `liver_3d.fold0`."""
    found = OF_A_FOLD.fullmatch(name)
    return Training(found[1], int(found[2])) if found else Training(name)


def trainings_of(experiment: str, folds: int | None) -> list[Training]:
    """Returns the trainings of an experiment with so many folds; None or 0 is one training."""
    return [Training(experiment, fold) for fold in range(folds)] if folds else [Training(experiment)]


def refuse_other_folds(training: Training, folds: int) -> None:
    """Refuses a training that the data is not shared out for, and one beside which `dvc repro` trains no others.

    An experiment that `configs/trainings.yaml` does not know may be trained by hand.

    Args:
        training: what is to be trained.
        folds: how many the preprocessed cases have; 0 is none.

    Raises:
        InputError: ``other-folds``.
    """
    wanted = trainings_of(training.experiment, folds)
    names = ", ".join(one.name for one in wanted)
    remedy = f"run `python -m pipeline run --experiment {training.experiment}`, which reads `folds` in its data.yaml"
    if training not in wanted:
        raise InputError(training.name, found=f"a training that data shared out for {names} does not have",
                         wanted=f"one of {names}", remedy=remedy, reason="other-folds")
    listed = [name for name, entry in _read()["trainings"].items() if entry["experiment"] == training.experiment]
    if listed and set(listed) != {one.name for one in wanted}:
        raise InputError(TRAININGS, found=f"the trainings {', '.join(listed)}", wanted=f"{names}, as data.yaml says",
                         remedy=remedy, reason="other-folds")


def write_trainings(experiment: str, folds: int | None, *, active: list[str]) -> bool:
    """Writes the trainings of one experiment into `configs/trainings.yaml`; returns whether that changed the file.

    Those of other experiments stay as they are unless `active` has them no more.
    """
    content = _read()
    others = {name: entry for name, entry in content["trainings"].items()
              if entry["experiment"] != experiment and entry["experiment"] in active}
    own = {training.name: training.entry for training in trainings_of(experiment, folds)}
    joined = [*(name for name in content["ensembles"] if name != experiment and name in active),
              *([experiment] if folds else [])]
    # In the order of the experiments, so that activating one moves no other.
    trainings = dict(sorted({**others, **own}.items(), key=lambda item: active.index(item[1]["experiment"])))
    lines = [f"  {name}: {{experiment: {entry['experiment']}, folder: {entry['folder']}}}"
             for name, entry in trainings.items()]
    ensembles = yaml.safe_dump(sorted(joined, key=active.index), default_flow_style=True, width=10**6)
    text = "\n".join([f"{HEADING}trainings:", *lines, f"ensembles: {ensembles}"])
    if TRAININGS.is_file() and TRAININGS.read_text(encoding="utf-8") == text:
        return False
    write_text(TRAININGS, text)
    return True


def _read() -> dict[str, Any]:
    content = read_yaml(TRAININGS) if TRAININGS.is_file() else {}
    return {"trainings": content.get("trainings") or {}, "ensembles": content.get("ensembles") or []}
