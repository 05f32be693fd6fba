"""What 15 minutes of training are worth on this machine: Segline, nnU-Net v2 and a plain MONAI recipe.

    python benchmarks/train_vs_peers.py --data data/raw/hippocampus --index work/hippocampus_3d/index.json \\
      [--experiment hippocampus_3d] [--nnunet VENV/bin/python] [--minutes 15] [--seeds 0 1 2] \\
      [--sides segline plain nnunet] [--folder DIR]

All sides train on the index's training cases for the same wall-clock time, after each has preprocessed them, and
segment the validation and test cases, which none was trained on. Segline runs as its users run it: `budget: 15 min` in
bundle.yaml and its own stages (its schedule stage's seconds are printed beside). nnU-Net runs as `3d_fullres`, or as
`2d` where the experiment is of slices or pictures; it has no seed, and is trained once. The plain recipe, for
hippocampus_3d, is what tutorials and the model zoo do: CacheDataset, RandCropByPosNegLabeld, UNet of 16 to 128 features
with residual units, Adam, float32, batches of four patches of 40x56x40.
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

from infer_vs_nnunet import MODES
from nnunet_peer import Cases, Nnunet, lay_out

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = "hippocampus_3d"
PATCH = (40, 56, 40)
SPEED = "exact"


def copied_project(project: Path, data: Path, experiment: str) -> Path:
    """Returns a new copy of the project, at `project`, with one experiment, whose raw data are `data`."""
    shutil.rmtree(project, ignore_errors=True)
    for name in ("bundles", f"configs/{experiment}"):
        shutil.copytree(ROOT / name, project / name)
    for name in ("dvc.yaml", "requirements.lock"):
        shutil.copyfile(ROOT / name, project / name)
    (project / "pipeline").symlink_to(ROOT / "pipeline")
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw" / experiment.rpartition("_")[0]).symlink_to(data.resolve())
    return project


def run_segline(cases: Cases, data: Path, experiment: str, *, minutes: float, seed: int) -> dict[str, Any]:
    """Trains by Segline's own stages in a copy of the project, and segments the held-out scans."""
    import yaml

    project = copied_project(cases.folder / f"segline_{seed}", data, experiment)
    config = project / "configs" / experiment / "bundle.yaml"
    chosen = {key: value for key, value in yaml.safe_load(config.read_text()).items()
              if key not in ("iterations", "budget", "preset")}
    config.write_text(yaml.safe_dump({**chosen, "budget": f"{minutes} min", "seed": seed}))
    seconds = {}
    for stage in ("audit", "plan", "schedule", "preprocess", "train"):
        start = perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", stage, "--experiment", experiment], cwd=project, check=True,
                       stdout=sys.stderr)
        seconds[stage] = perf_counter() - start
    subprocess.run([sys.executable, "-m", "pipeline", "segment", "--bundle", f"work/{experiment}/bundle", "--input",
                    str(cases.scans), "--output_dir", "out", "--speed", SPEED], cwd=project, check=True,
                   stdout=sys.stderr)
    schedule = yaml.safe_load((project / f"work/{experiment}/schedule.yaml").read_text())
    masks = {case: project / "out" / f"{case}_0000" / f"segmentation{cases.ending}" for case in cases.truths}
    return {"masks": masks, "seconds": seconds["train"], "iterations": schedule["iterations"],
            "beside": {"schedule": round(seconds["schedule"], 1), "preprocess": round(seconds["preprocess"], 1)}}


def plain_preprocessing(names: list[str]) -> list[Any]:
    """Returns the plain recipe's steps up to normalised volumes of 1 mm, for training and inference."""
    from monai.transforms import EnsureChannelFirstd, LoadImaged, NormalizeIntensityd, Orientationd, Spacingd

    modes = [{"image": "bilinear", "label": "nearest"}[name] for name in names]
    return [LoadImaged(names), EnsureChannelFirstd(names), Orientationd(names, axcodes="RAS", labels=None),
            Spacingd(names, pixdim=(1, 1, 1), mode=modes), NormalizeIntensityd("image")]


def train_plain(pairs: list[dict[str, Path]], network: Any, *, minutes: float) -> tuple[float, int]:
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
    loader = DataLoader(CacheDataset(pairs, steps, progress=False), batch_size=4, shuffle=True)
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


def run_plain(cases: Cases, *, minutes: float, seed: int) -> dict[str, Any]:
    """Trains the plain recipe for so long and segments the held-out scans."""
    from monai.networks.nets import UNet
    from monai.utils import set_determinism

    set_determinism(seed)
    out = cases.folder / f"plain_{seed}"
    pairs = [{"image": path, "label": cases.raw / "labelsTr" / path.name.replace("_0000", "")}
             for path in sorted((cases.raw / "imagesTr").iterdir())]
    network = UNet(3, 1, 3, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)
    seconds, iterations = train_plain(pairs, network, minutes=minutes)
    segment_plain(sorted(cases.scans.iterdir()), network, out)
    masks = {case: out / f"{case}_0000{cases.ending}" for case in cases.truths}
    return {"masks": masks, "seconds": seconds, "iterations": iterations, "beside": {}}


def main() -> None:
    """Runs the sides in turn, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--experiment", choices=("hippocampus_3d", "hippocampus_2d", "nuclei_2d"), default=EXPERIMENT)
    parser.add_argument("--nnunet", help="the Python that has nnU-Net v2")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=["segline", "plain", "nnunet"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    sides = [side for side in arguments.sides if side != "plain" or arguments.experiment == EXPERIMENT]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        cases = lay_out(arguments.data, arguments.index, folder)
        scores: dict[str, list[float]] = {}

        def note(name: str, masks: dict[str, Path], facts: str) -> None:
            scores.setdefault(name, []).append(cases.mean_dice(masks))
            print(f"{name:32} mean Dice {scores[name][-1]:.4f}; {facts}", flush=True)

        for seed in arguments.seeds:
            for side in (side for side in sides if side != "nnunet"):
                run = run_plain(cases, minutes=arguments.minutes, seed=seed) if side == "plain" else run_segline(
                    cases, arguments.data, arguments.experiment, minutes=arguments.minutes, seed=seed)
                note(side, run["masks"], f"seed {seed}, {run['seconds']:.0f} s, {run['iterations']} iterations; "
                     f"beside {run['beside']}")
        if "nnunet" in sides:
            nnunet = Nnunet(arguments.nnunet, cases, "3d_fullres" if arguments.experiment == EXPERIMENT else "2d")
            nnunet.train(minutes=arguments.minutes)
            for name, words in MODES.items():
                _, masks = nnunet.predict(folder / "out" / name, *words)
                note(name, masks, f"{arguments.minutes} min")
        for name, values in scores.items():
            spread = f", {min(values):.4f} to {max(values):.4f}" if len(values) > 1 else ""
            print(f"{name:32} mean {statistics.mean(values):.4f} of {len(values)}{spread}")


if __name__ == "__main__":
    main()
