"""work/<exp>/folds -> work/<exp>/bundle and history.csv: the folds' networks as one bundle, run like any other."""

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from pipeline.records.bundles import WEIGHTS, history_of_member, weights_of_member
from pipeline.records.confidence import CONFIDENCE, OF_INFERENCE, joint_confidence
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside, sha256_of_file, write_json, write_text
from pipeline.records.folders import ExperimentFolders
from pipeline.records.index import read_index
from pipeline.records.postprocessing import LARGEST_COMPONENT, joint_choice

# Of history.csv, what says which point it is; the others are averaged.
PLACES = ("iteration", "epoch")


def run(experiment: str) -> None:
    """Makes one bundle of those that the folds of an experiment trained.

    It has the configs of the first, which are those of all, and the weights of each with their digest and its curves;
    the bundle's own history.csv is their mean. All folds' validation cases choose the largest components, and
    what is sure.

    Raises:
        InputError: the experiment has no folds, or one of them is not trained.
    """
    folders = ExperimentFolders(experiment)
    count = read_index(folders.index).folds
    if not count:
        raise InputError(folders.index, found="cases without folds", wanted="an experiment with folds",
                         remedy="set `folds` in data.yaml; without them the training's bundle is the experiment's",
                         reason="no-folds")
    members = [ExperimentFolders(experiment, fold) for fold in range(count)]
    for member in members:
        if not (member.bundle / WEIGHTS).is_file():
            raise InputError(member.bundle, found="no trained bundle", wanted=f"one for each of {count} folds",
                             remedy=f"run `python -m pipeline run --experiment {experiment}`", reason="missing-fold")
    with folder_written_aside(folders.bundle) as aside:
        shutil.copytree(members[0].bundle / "configs", aside / "configs")
        choice = joint_choice(_read_all(members, LARGEST_COMPONENT))
        confidence = joint_confidence(_read_all(members, CONFIDENCE))
        write_json(aside / LARGEST_COMPONENT, choice)
        write_json(aside / CONFIDENCE, confidence)
        _change(aside / "configs/inference.yaml", members=list(range(count)), largest_component=choice["chosen"],
                **{name: confidence[name] for name in OF_INFERENCE})
        for fold, member in enumerate(members):
            _add_weights(aside, fold, member.bundle / WEIGHTS)
            history = history_of_member(aside, fold)
            history.parent.mkdir(exist_ok=True)
            shutil.copyfile(member.history, history)
    write_text(folders.history, mean_history([member.history for member in members]))
    print(f"ensemble: {folders.bundle} holds the networks of {count} folds")


def _read_all(members: Sequence[ExperimentFolders], name: Path) -> list[dict[str, Any]]:
    return [json.loads((member.bundle / name).read_text(encoding="utf-8")) for member in members]


def mean_history(tables: Sequence[Path]) -> str:
    """Returns `history.csv` of several trainings of one schedule as one: the mean of each column, point by point.

    A cell is empty where it is in all of them.
    """
    histories = []
    for table in tables:
        with table.open(newline="", encoding="utf-8") as stream:
            histories.append(list(csv.DictReader(stream)))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(histories[0][0]), lineterminator="\n")
    writer.writeheader()
    for rows in zip(*histories, strict=True):
        writer.writerow({name: first if name in PLACES else _mean([row[name] for row in rows])
                         for name, first in rows[0].items()})
    return text.getvalue()


def _mean(cells: Sequence[str]) -> str:
    values = [float(cell) for cell in cells if cell]
    return repr(fmean(values)) if values else ""


def _change(config: Path, **values: Any) -> None:
    content = yaml.safe_load(config.read_text(encoding="utf-8")) | values
    write_text(config, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def _add_weights(bundle: Path, fold: int, weights: Path) -> None:
    target = weights_of_member(bundle / WEIGHTS, fold)
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(weights, target)
    write_text(target.with_name(f"{target.name}.sha256"), f"{sha256_of_file(target)}  {target.name}\n")
