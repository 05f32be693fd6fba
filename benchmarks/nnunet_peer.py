"""nnU-Net v2 as the benchmarks' peer: in an environment of its own, planned and trained as its users do, by the clock.

Of its package the folder training/nnUNetTrainer/primus, the only user of timm and torchvision, may be removed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

STEPS = 1000  # of the learning rate
TRAINER = '''
from time import monotonic

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerTimed(nnUNetTrainer):
    def run_training(self):
        self.on_train_start()
        self.lr_scheduler.max_steps = %d
        start, share, iterations = monotonic(), 0.0, 0
        self.network.train()
        while share < 1:
            self.lr_scheduler.step(int(share * %d))
            self.train_step(next(self.dataloader_train))
            iterations += 1
            share = (monotonic() - start) / (60 * %f)
        self.print_to_log_file(f"{iterations} iterations")
        self.current_epoch = 1
        self.on_train_end()

    def perform_actual_validation(self, save_probabilities=False):
        pass  # minutes for the training cases, and no word about others
'''
ENTRIES = {"plan_and_preprocess_entry": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
           "run_training_entry": "nnunetv2.run.run_training",
           "predict_entry_point": "nnunetv2.inference.predict_from_raw_data"}


@dataclass(frozen=True)
class Cases:
    """Cases laid out as nnU-Net wants them: those for training, and scans that neither side is trained on.

    Attributes:
        folder: below it nnU-Net's three folders.
        name: nnU-Net's, `Dataset004_...`.
        ending: of all files.
        truths: the label of each case that is to be segmented.
    """

    folder: Path
    name: str
    ending: str
    truths: Mapping[str, Path]

    @property
    def raw(self) -> Path:
        """The folder with `imagesTr`, `labelsTr` and `imagesTs`."""
        return self.folder / "raw" / self.name

    @property
    def scans(self) -> Path:
        """The folder with what is to be segmented."""
        return self.raw / "imagesTs"

    def mean_dice(self, masks: Mapping[str, Path]) -> float:
        """Returns the mean over labels and cases of masks by case."""
        scores = []
        for case, path in self.truths.items():
            truth, mask = (_voxels(one) for one in (path, masks[case]))
            for value in np.unique(truth)[1:]:
                a, b = truth == value, mask == value
                scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
        return float(np.mean(scores))


def lay_out(data: Path, index: Path, folder: Path) -> Cases:
    """Links the images of an index, and its labels; instances in pictures become one label of their own."""
    content = json.loads(index.read_text())
    are_pictures = content["are_pictures"]
    ending = ".png" if are_pictures else ".nii.gz"
    cases = Cases(folder, f"Dataset004_{content['dataset'].capitalize()}", ending, {
        case["case_id"]: folder / "truths" / f"{case['case_id']}{ending}"
        for case in content["cases"] if case["split"] != "train"})
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (cases.raw / name).mkdir(parents=True, exist_ok=True)
    (folder / "truths").mkdir(exist_ok=True)
    for case in content["cases"]:
        name, is_training = case["case_id"], case["split"] == "train"
        image = cases.raw / ("imagesTr" if is_training else "imagesTs") / f"{name}_0000{ending}"
        label = cases.truths.get(name, cases.raw / "labelsTr" / f"{name}{ending}")
        for path, source in ((image, data / case["image"]), (label, data / case["label"])):
            path.unlink(missing_ok=True)
            if are_pictures:
                picture = Image.open(source)
                mask = Image.fromarray((np.asarray(picture) > 0).astype(np.uint8))
                (mask if path == label else picture.convert("RGB")).save(path)
            else:
                path.symlink_to(source.resolve())
    channels = ("red", "green", "blue") if are_pictures else ("MRI",)
    count = sum(case["split"] == "train" for case in content["cases"])
    (cases.raw / "dataset.json").write_text(json.dumps({
        "channel_names": dict(enumerate(channels)), "labels": {"background": 0, **content["labels"]},
        "numTraining": count, "file_ending": ending}))
    return cases


@dataclass(frozen=True)
class Nnunet:
    """nnU-Net on some cases.

    Attributes:
        python: of its environment.
        cases: what it is given.
        configuration: `2d` or `3d_fullres`.
    """

    python: str
    cases: Cases
    configuration: str

    @property
    def _preprocessed(self) -> Path:
        return self.cases.folder / "preprocessed" / self.cases.name

    def plan_and_preprocess(self, *words: str) -> float:
        """Does so anew; returns the seconds."""
        shutil.rmtree(self._preprocessed, ignore_errors=True)
        return self._run("plan_and_preprocess_entry", "-d", "4", "-c", self.configuration, "-np", "2", *words)

    def train(self, *, minutes: float) -> None:
        """Plans, preprocesses and trains for so long, where that is not done yet."""
        done = self.cases.folder / f"trained_{self.configuration}_{minutes:g}min"
        if done.exists():
            return
        where = subprocess.run([self.python, "-c", "import nnunetv2; print(nnunetv2.__path__[0])"],
                               capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        (Path(where) / "training/nnUNetTrainer/nnUNetTrainerTimed.py").write_text(TRAINER % (STEPS, STEPS, minutes))
        if not (self._preprocessed / f"nnUNetPlans_{self.configuration}").exists():
            self.plan_and_preprocess()
        seconds = self._run("run_training_entry", "4", self.configuration, "all", "-device", "cpu", "-tr",
                            "nnUNetTrainerTimed")
        done.write_text(f"{seconds:.0f} s")

    def predict(self, out: Path, *words: str) -> tuple[float, dict[str, Path]]:
        """Segments the scans; returns the seconds, start-up included, and the mask of each case."""
        seconds = self._run("predict_entry_point", "-i", str(self.cases.scans), "-o", str(out), "-d", "4", "-c",
                            self.configuration, "-f", "all", "-device", "cpu", "-tr", "nnUNetTrainerTimed", "-npp",
                            "2", "-nps", "2", *words)
        return seconds, {case: out / f"{case}{self.cases.ending}" for case in self.cases.truths}

    def _run(self, entry: str, *words: str) -> float:
        code = f"from {ENTRIES[entry]} import {entry}; {entry}()"
        start = perf_counter()
        subprocess.run([self.python, "-c", f"if __name__ == '__main__':\n    {code}", *words], check=True,
                       env=self._environment(), stdout=sys.stderr)
        return perf_counter() - start

    def _environment(self) -> dict[str, str]:
        names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        return os.environ | {name: str(self.cases.folder / part) for name, part in names.items()} | {
            "nnUNet_n_proc_DA": "1", "nnUNet_compile": "false"}


def _voxels(path: Path) -> Any:
    return np.asarray(Image.open(path) if path.suffix == ".png" else nib.load(path).dataobj)
