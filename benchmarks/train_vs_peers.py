"""What 15 minutes of training are worth on this machine: Segline, nnU-Net v2 and a plain MONAI recipe.

    python benchmarks/train_vs_peers.py --data data/raw/hippocampus --index work/hippocampus_3d/index.json \\
      [--nnunet VENV/bin/python] [--minutes 15] [--seeds 0 1 2] [--sides segline plain nnunet] [--folder DIR]

All sides train on the index's training cases for the same wall-clock time, after each has preprocessed them, and
segment the validation and test cases, which none was trained on. Segline runs as its users run it: `budget: 15 min` in
bundle.yaml and its own stages (its schedule stage's seconds are printed beside). The plain recipe is what tutorials and
the model zoo do: CacheDataset, RandCropByPosNegLabeld, UNet of 16 to 128 features with residual units, Adam, float32,
batches of four patches of 40x56x40. For nnU-Net see infer_vs_nnunet.py; it has no seed, and is trained once.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from infer_vs_nnunet import DATASET, MODES, lay_out, mean_dice, run_nnunet, train_nnunet

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "hippocampus_3d"
PATCH = (40, 56, 40)
SPEED = "exact"


def copied_project(project: Path, data: Path) -> Path:
    """Returns a new copy of the project, at `project`, whose hippocampus is `data`."""
    shutil.rmtree(project, ignore_errors=True)
    for name in ("bundles", f"configs/{EXPERIMENT}"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copyfile(ROOT / name, project / name)
    (project / "pipeline").symlink_to(ROOT / "pipeline")
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/hippocampus").symlink_to(data.resolve())
    return project


def run_segline(folder: Path, data: Path, *, minutes: float, seed: int) -> dict[str, Any]:
    """Trains by Segline's own stages in a copy of the project, and segments the held-out scans."""
    import yaml

    project = copied_project(folder / f"segline_{seed}", data)
    config = project / "configs" / EXPERIMENT / "bundle.yaml"
    chosen = {key: value for key, value in yaml.safe_load(config.read_text()).items()
              if key not in ("iterations", "budget", "preset")}
    config.write_text(yaml.safe_dump({**chosen, "budget": f"{minutes} min", "seed": seed}))
    seconds = {}
    for stage in ("audit", "plan", "schedule", "preprocess", "train"):
        start = perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", stage, "--experiment", EXPERIMENT], cwd=project, check=True,
                       stdout=sys.stderr)
        seconds[stage] = perf_counter() - start
    subprocess.run([sys.executable, "-m", "pipeline", "segment", "--bundle", f"work/{EXPERIMENT}/bundle", "--input",
                    str(folder / "raw" / DATASET / "imagesTs"), "--output_dir", "out", "--speed", SPEED], cwd=project,
                   check=True, stdout=sys.stderr)
    schedule = yaml.safe_load((project / f"work/{EXPERIMENT}/schedule.yaml").read_text())
    return {"out": project / "out", "seconds": seconds["train"], "iterations": schedule["iterations"],
            "beside": {"schedule": round(seconds["schedule"], 1), "preprocess": round(seconds["preprocess"], 1)}}


def plain_preprocessing(names: list[str]) -> list[Any]:
    """Returns the plain recipe's steps up to normalised volumes of 1 mm, for training and inference."""
    from monai.transforms import EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd

    modes = [{"image": "bilinear", "label": "nearest"}[name] for name in names]
    return [LoadImaged(names), EnsureChannelFirstd(names), Orientationd(names, axcodes="RAS", labels=None),
            Spacingd(names, pixdim=(1, 1, 1), mode=modes), NormalizeIntensityd("image")]


def train_plain(cases: list[dict[str, Path]], network: Any, *, minutes: float) -> tuple[float, int]:
    """Trains for so long; returns the seconds and the iterations."""
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.losses import DiceCELoss
    from monai.transforms import Compose, RandCropByPosNegLabeld, RandScaleIntensityd, RandShiftIntensityd, SpatialPadd

    keys = ["image", "label"]
    steps = Compose([
        *plain_preprocessing(keys), SpatialPadd(keys, PATCH),
        RandCropByPosNegLabeld(keys, label_key="label", spatial_size=PATCH, pos=1, neg=1, num_samples=1),
        RandScaleIntensityd("image", factors=0.1, prob=0.5), RandShiftIntensityd("image", offsets=0.1, prob=0.5)])
    loader = DataLoader(CacheDataset(cases, steps, progress=False), batch_size=4, shuffle=True)
    loss, optimizer = DiceCELoss(to_onehot_y=True, softmax=True), torch.optim.Adam(network.parameters(), 1e-3)
    start, iterations = perf_counter(), 0
    while True:
        for batch in loader:
            if perf_counter() - start >= 60 * minutes:
                return perf_counter() - start, iterations
            optimizer.zero_grad()
            loss(network(batch["image"]), batch["label"]).backward()
            optimizer.step()
            iterations += 1


def segment_plain(scans: list[Path], network: Any, out: Path) -> None:
    """Writes masks of the scans' names on their own grids."""
    import torch
    from monai.data import Dataset
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import AsDiscreted, Compose, Invertd, SaveImaged

    before = Compose(plain_preprocessing(["image"]))
    after = Compose([
        Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
        AsDiscreted("pred", argmax=True),
        SaveImaged("pred", output_dir=out, output_postfix="", separate_folder=False, resample=False, print_log=False,
                   output_dtype="uint8")])
    inferer = SlidingWindowInferer(PATCH, sw_batch_size=4, overlap=0.5, mode="gaussian")
    network.eval()
    with torch.inference_mode():
        for data in Dataset([{"image": path} for path in scans], before):
            data["pred"] = inferer(data["image"][None], network)[0]
            after(data)


def run_plain(folder: Path, *, minutes: float, seed: int) -> dict[str, Any]:
    """Trains the plain recipe for so long and segments the held-out scans."""
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    set_determinism(seed)
    raw, out = folder / "raw" / DATASET, folder / f"plain_{seed}"
    cases = [{"image": path, "label": raw / "labelsTr" / path.name.replace("_0000", "")}
             for path in sorted((raw / "imagesTr").iterdir())]
    network = UNet(3, 1, 3, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)
    seconds, iterations = train_plain(cases, network, minutes=minutes)
    segment_plain(sorted((raw / "imagesTs").iterdir()), network, out)
    return {"out": out, "seconds": seconds, "iterations": iterations, "beside": {}}


def main() -> None:
    """Runs the sides in turn, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--nnunet", help="the Python that has nnU-Net v2")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=["segline", "plain", "nnunet"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        truths = lay_out(arguments.data, arguments.index, folder)
        scores: dict[str, list[float]] = {}

        def note(name: str, found: dict[str, Path], facts: str) -> None:
            scores.setdefault(name, []).append(mean_dice(truths, found))
            print(f"{name:32} mean Dice {scores[name][-1]:.4f}; {facts}", flush=True)

        for seed in arguments.seeds:
            for side in ("segline", "plain"):
                if side not in arguments.sides:
                    continue
                run = run_segline(folder, arguments.data, minutes=arguments.minutes, seed=seed) \
                    if side == "segline" else run_plain(folder, minutes=arguments.minutes, seed=seed)
                paths = {case: run["out"] / f"{case}_0000" / "segmentation.nii.gz" if side == "segline"
                         else run["out"] / f"{case}_0000.nii.gz" for case in truths}
                note(side, paths, f"seed {seed}, {run['seconds']:.0f} s, {run['iterations']} iterations; "
                     f"beside {run['beside']}")
        if "nnunet" in arguments.sides:
            train_nnunet(arguments.nnunet, folder, minutes=arguments.minutes)
            for name, words in MODES.items():
                out = folder / "out" / name
                run_nnunet(arguments.nnunet, folder, "predict_entry_point", "-i",
                           str(folder / "raw" / DATASET / "imagesTs"), "-o", str(out), "-d", "4", "-c", "3d_fullres",
                           "-f", "all", "-device", "cpu", "-tr", "nnUNetTrainerTimed", "-npp", "2", "-nps", "2", *words)
                note(name, {case: out / f"{case}.nii.gz" for case in truths}, f"{arguments.minutes} min")
        for name, values in scores.items():
            spread = f", {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
            print(f"{name:32} mean {statistics.mean(values):.4f} of {len(values)}{spread}")


if __name__ == "__main__":
    main()
