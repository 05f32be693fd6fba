"""60 hippocampus scans from files to segmentations: Segline against `nnUNetv2_predict`, start-up included.

    python benchmarks/infer_vs_nnunet.py --data data/raw/hippocampus --index work/hippocampus_3d/index.json \\
      --bundle models/hippocampus_3d --nnunet VENV/bin/python [--minutes 15] [--folder DIR]

nnU-Net v2 comes from an environment of its own (its folder training/nnUNetTrainer/primus, the only user of timm and
torchvision, may be removed). It plans and trains on the same training cases as the bundle for so many minutes, its
learning rate falling to nothing by their end (its own thousand epochs take weeks on two cores), and then both segment
the cases that neither was trained on.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np

PEER = "nnUNetv2_predict"
MODES = {PEER: (), f"{PEER} --disable_tta": ("--disable_tta",)}
COMMANDS = {"monai.bundle run": ("-m", "monai.bundle", "run"), "pipeline segment": ("-m", "pipeline", "segment")}
DATASET = "Dataset004_Hippocampus"
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


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment that nnU-Net wants, below `folder`."""
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    return os.environ | {name: str(folder / part) for name, part in names.items()} | {
        "nnUNet_n_proc_DA": "1", "nnUNet_compile": "false"}


def lay_out(data: Path, index: Path, folder: Path) -> dict[str, Path]:
    """Links the cases as nnU-Net wants them; returns the truth of each case that is to be segmented."""
    content = json.loads(index.read_text())
    raw = folder / "raw" / DATASET
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    truths = {}
    for case in content["cases"]:
        image, label = (data / case[kind] for kind in ("image", "label"))
        is_training = case["split"] == "train"
        links = {raw / ("imagesTr" if is_training else "imagesTs") / f"{case['case_id']}_0000.nii.gz": image}
        if is_training:
            links[raw / "labelsTr" / f"{case['case_id']}.nii.gz"] = label
        else:
            truths[case["case_id"]] = label
        for link, target in links.items():
            link.unlink(missing_ok=True)
            link.symlink_to(target.resolve())
    count = sum(case["split"] == "train" for case in content["cases"])
    (raw / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, **content["labels"]}, "numTraining": count,
        "file_ending": ".nii.gz"}))
    return truths


def train_nnunet(python: str, folder: Path, *, minutes: float) -> None:
    """Plans, preprocesses and trains nnU-Net where that is not done yet."""
    if (folder / "trained").exists():
        return
    where = subprocess.run([python, "-c", "import nnunetv2; print(nnunetv2.__path__[0])"], capture_output=True,
                           text=True, check=True).stdout.splitlines()[-1]
    source = TRAINER % (STEPS, STEPS, minutes)
    (Path(where) / "training/nnUNetTrainer/nnUNetTrainerTimed.py").write_text(source)
    if not (folder / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres").exists():
        run_nnunet(python, folder, "plan_and_preprocess_entry", "-d", "4", "-c", "3d_fullres", "-np", "2")
    start = perf_counter()
    run_nnunet(python, folder, "run_training_entry", "4", "3d_fullres", "all", "-device", "cpu", "-tr",
               "nnUNetTrainerTimed")
    (folder / "trained").write_text(f"{perf_counter() - start:.0f} s")


def run_nnunet(python: str, folder: Path, entry: str, *words: str) -> float:
    """Runs one of nnU-Net's command-line entries; returns its seconds, start-up included."""
    modules = {"plan_and_preprocess_entry": "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints",
               "run_training_entry": "nnunetv2.run.run_training",
               "predict_entry_point": "nnunetv2.inference.predict_from_raw_data"}
    code = f"from {modules[entry]} import {entry}; {entry}()"
    start = perf_counter()
    subprocess.run([python, "-c", f"if __name__ == '__main__':\n    {code}", *words], check=True,
                   env=environment(folder), stdout=sys.stderr)
    return perf_counter() - start


def run_segline(bundle: Path, scans: Path, out: Path, *, command: str, speed: str) -> float:
    """Segments a folder by one of our commands; returns its seconds, start-up included."""
    words = [*COMMANDS[command], "--input", str(scans), "--output_dir", str(out), "--speed", speed]
    is_bundle_run = command == "monai.bundle run"
    words += ["--config_file", str(bundle / "configs/inference.yaml"), "--bundle_root", str(bundle)] \
        if is_bundle_run else ["--bundle", str(bundle)]
    start = perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def mean_dice(truths: dict[str, Path], found: dict[str, Path]) -> float:
    """Returns the mean over labels and cases."""
    scores = []
    for name, path in truths.items():
        truth, mask = (np.asarray(nib.load(one).dataobj) for one in (path, found[name]))
        for value in np.unique(truth)[1:]:
            a, b = truth == value, mask == value
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores))


def main() -> None:
    """Trains the peer and runs both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--nnunet", required=True, help="the Python that has nnU-Net v2")
    parser.add_argument("--minutes", type=float, default=15.0, help="of nnU-Net's training")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        truths = lay_out(arguments.data, arguments.index, folder)
        train_nnunet(arguments.nnunet, folder, minutes=arguments.minutes)
        scans = folder / "raw" / DATASET / "imagesTs"
        rows = {}
        for name, words in MODES.items():
            out = folder / "out" / name
            seconds = run_nnunet(arguments.nnunet, folder, "predict_entry_point", "-i", str(scans), "-o", str(out),
                                 "-d", "4", "-c", "3d_fullres", "-f", "all", "-device", "cpu", "-tr",
                                 "nnUNetTrainerTimed", "-npp", "2", "-nps", "2", *words)
            rows[name] = seconds, mean_dice(truths, {case: out / f"{case}.nii.gz" for case in truths})
        for command, speed in ((command, speed) for command in COMMANDS for speed in ("exact", "fast", "fastest")):
            out = folder / "out" / f"{command} {speed}"
            seconds = run_segline(arguments.bundle, scans, out, command=command, speed=speed)
            rows[out.name] = seconds, mean_dice(
                truths, {case: out / f"{case}_0000" / "segmentation.nii.gz" for case in truths})
    peer = rows[PEER][0]
    for name, (seconds, dice) in rows.items():
        print(f"{name:34} {seconds:7.1f} s, {seconds / len(truths):6.2f} s a scan, nnU-Net/this {peer / seconds:5.2f}, "
              f"mean Dice {dice:.4f}")


if __name__ == "__main__":
    main()
