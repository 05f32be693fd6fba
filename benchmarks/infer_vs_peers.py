"""From a DICOM series to a segmentation on its grid: Segline against a stock MONAI bundle, one after the other.

    python benchmarks/infer_vs_peers.py [--folder DIR] [--rounds 3] [--large]

Makes a CT-like scan of 512x512x120 voxels (0.7x0.7x2.5 mm), trains a UNet (16 to 256 features, 1.5 mm, windows of
96x96x96) on it for two minutes, so that masks mean something, and then segments the series with the same weights by
the stock path and by each of Segline's speeds, each in a process of its own. Times run from the path to the files
written, after imports. Prints seconds, ratios, memory, agreement and the share of the time that the bare network takes.
With --large the scan is repeated four times along the patient, 512x512x480 voxels, as of a whole trunk.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from ct_like_scan import AFFINE, SHAPE, make_scan, number_by_position, repeated

NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": (16, 32, 64, 128, 256),
           "strides": (2, 2, 2, 2), "num_res_units": 2, "norm": "instance"}
PLAN = {
    "spatial_dims": 3, "slice_axis": None, "spacing_mm": [1.5, 1.5, 1.5], "patch_size": [96, 96, 96],
    "intensity": {"scheme": "ct", "low": -200.0, "high": 300.0, "mean": 40.0, "std": 80.0},
    "intensity_range": [-1024.0, 400.0], "modality": "CT", "labels": {"organ": 1, "lesion": 2}, "codes": {},
    "model_name": "benchmark",
    "network_def": {"_target_": "UNet", **{key: list(value) if isinstance(value, tuple) else value
                                           for key, value in NETWORK.items()}},
}
SPEEDS = ("exact", "fast", "fastest")
STEPS = 200
TEMPLATE = Path(__file__).parents[1] / "bundles/segmentation/configs"


def train(image: np.ndarray, label: np.ndarray, path: Path) -> None:
    """Writes the weights of a network that was taught the scan."""
    import torch
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    from pipeline.imaging.resampling import regrid_of, to_network_grid

    torch.manual_seed(0)
    regrid = regrid_of(SHAPE, AFFINE, spacing_mm=PLAN["spacing_mm"])
    scheme = PLAN["intensity"]
    volume = to_network_grid(torch.from_numpy(image), regrid).clamp(scheme["low"], scheme["high"])
    volume = (volume - scheme["mean"]) / scheme["std"]
    truth = to_network_grid(torch.from_numpy(label), regrid, nearest=True)
    network = UNet(**NETWORK)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    foreground = torch.nonzero(truth > 0)
    rng = np.random.default_rng(0)
    edge = 64
    for _ in range(STEPS):
        cuts = []
        for pick in range(2):
            centre = foreground[rng.integers(len(foreground))] if pick else rng.integers(0, volume.shape, 3)
            start = [int(np.clip(int(at) - edge // 2, 0, size - edge))
                     for at, size in zip(centre, volume.shape, strict=True)]
            cuts.append(tuple(slice(first, first + edge) for first in start))
        optimizer.zero_grad()
        scores = network(torch.stack([volume[cut][None] for cut in cuts]))
        loss(scores, torch.stack([truth[cut][None] for cut in cuts])).backward()
        optimizer.step()
    torch.save(network.state_dict(), path)


def prepare(folder: Path, *, is_large: bool) -> None:
    """Writes series, truth, weights and both bundles, where they are not there yet."""
    import yaml

    from pipeline.imaging.dicom_write import write_ct_series
    from pipeline.imaging.nifti import write_nifti
    from pipeline.records.files import sha256_of_file

    if (folder / "ready").exists():
        return
    image, label = make_scan()
    for name in ("models", "configs"):
        (folder / "bundle" / name).mkdir(parents=True, exist_ok=True)
    weights = folder / "bundle/models/model.pt"
    train(image, label, weights)
    if is_large:
        image, label = repeated(image), repeated(label)
    write_ct_series(folder / "series", image, affine=AFFINE, uid_seed="benchmark", patient_id="p000")
    number_by_position(folder / "series")
    write_nifti(folder / "truth.nii.gz", label, affine=AFFINE)
    weights.with_name("model.pt.sha256").write_text(f"{sha256_of_file(weights)}  model.pt\n")
    config: dict[str, Any] = {}
    for name in ("common.yaml", "inference.yaml"):
        config |= yaml.safe_load((TEMPLATE / name).read_text())
    (folder / "bundle/configs/inference.yaml").write_text(yaml.safe_dump(config | PLAN, sort_keys=False))
    (folder / "ready").touch()


def run_stock(folder: Path, out: Path) -> float:
    """Segments the series as a bundle of MONAI's model zoo does; returns the seconds."""
    import torch
    from monai.data import Dataset
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import UNet
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        EnsureTyped,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    scheme = PLAN["intensity"]
    low, high, mean, std = (scheme[name] for name in ("low", "high", "mean", "std"))
    start = perf_counter()
    before = Compose([
        LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=PLAN["spacing_mm"], mode="bilinear"),
        ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=(low - mean) / std, b_max=(high - mean) / std,
                             clip=True),
        EnsureTyped("image"),
    ])
    network = UNet(**NETWORK)
    network.load_state_dict(torch.load(folder / "bundle/models/model.pt", weights_only=True))
    network.eval()
    inferer = SlidingWindowInferer(PLAN["patch_size"], sw_batch_size=4, overlap=0.5, mode="gaussian",
                                   padding_mode="replicate")
    after = Compose([
        Activationsd("pred", softmax=True),
        Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
        AsDiscreted("pred", argmax=True),
        SaveImaged("pred", output_dir=out, output_postfix="", separate_folder=False, resample=False,
                   output_dtype=np.uint8, print_log=False),
    ])
    with torch.no_grad():
        for data in Dataset([{"image": str(folder / "series")}], before):
            data["pred"] = inferer(data["image"][None], network)[0]
            after(data)
    return perf_counter() - start


def status_kib(name: str) -> int:
    """Returns a line of the kernel's account of this process: ``VmRSS`` now, ``VmHWM`` at its peak.

    Not getrusage: its peak counts what the parent had when it started this process, which may have trained before.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def run_segline(folder: Path, out: Path, speed: str) -> tuple[float, dict[str, float], float, int]:
    """Segments the series.

    Returns:
        The seconds, those of each phase, those of the bare network on its windows, and the peak memory in KiB.
    """
    import torch

    from pipeline.bundle import open_segmenter
    from pipeline.imaging.discovery import find_scans

    start = perf_counter()
    segmenter = open_segmenter(folder / "bundle", speed=speed)
    (result,) = segmenter.segment_found(find_scans(folder / "series"), out)
    seconds, peak = perf_counter() - start, status_kib("VmHWM")
    assert result.folder is not None, result.message
    report = json.loads((result.folder / "report.json").read_text())
    # Once more, to count the windows; then the network alone on as many.
    method = segmenter.method
    network, shapes = method.network, []
    hook = network.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    segmenter.segment_found(find_scans(folder / "series"), out / "again")
    hook.remove()
    batches = {shape: torch.rand(shape) for shape in set(shapes)}
    with torch.inference_mode(), method.inferer._precision(method.device):
        for batch in batches.values():
            network(batch)
        begin = perf_counter()
        for shape in shapes:
            network(batches[shape])
        bare = perf_counter() - begin
    return seconds, report["seconds"], bare, peak


def run_side(side: str, folder: Path) -> None:
    """Measures one side in this process and prints it as JSON."""
    import monai
    import torch

    if side != "stock":
        import pipeline.bundle
        import pipeline.engine.segmenter  # noqa: F401
    assert monai
    out = folder / "out" / side
    shutil.rmtree(out, ignore_errors=True)  # a second result in one place is compared with the first
    out.mkdir(parents=True)
    torch.rand(8)
    before_kib = status_kib("VmRSS")
    found: dict[str, Any] = {}
    if side == "stock":
        found["seconds"], peak = run_stock(folder, out), status_kib("VmHWM")
        found["mask"] = str(next(out.glob("*.nii.gz")))
    else:
        found["seconds"], found["phases"], found["bare"], peak = run_segline(folder, out, side)
        found["mask"] = str(max(out.glob("*/segmentation.nii.gz"), key=lambda path: path.stat().st_mtime))
    found["peak_mib"] = (peak - before_kib) / 1024
    print(json.dumps(found))


def dice(first: np.ndarray, second: np.ndarray, value: int) -> float:
    """Returns the Dice coefficient of one label."""
    a, b = first == value, second == value
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def report(runs: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """Prints both sides of everything."""
    import nibabel as nib

    def mask(path: str | Path) -> np.ndarray:
        # Through world coordinates: the stock path may save the axes in another order.
        image = nib.as_closest_canonical(nib.load(path))
        return np.asarray(image.dataobj).squeeze()

    masks = {side: mask(found[0]["mask"]) for side, found in runs.items()}
    truth = mask(folder / "truth.nii.gz")
    stock = statistics.median(one["seconds"] for one in runs["stock"])
    scan_and_scores = 4 * truth.size * (1 + 3) / 2**20
    for side, found in runs.items():
        seconds = statistics.median(one["seconds"] for one in found)
        peak = statistics.median(one["peak_mib"] for one in found)
        differs = float((masks[side] != masks["stock"]).mean())
        scores = ", ".join(f"{name} {dice(masks[side], truth, value):.4f}" for name, value in PLAN["labels"].items())
        line = f"{side:8} {seconds:6.2f} s, stock/this {stock / seconds:5.2f}, peak {peak:5.0f} MiB " \
               f"({peak / scan_and_scores:.2f} of scan and scores), differs from stock in {100 * differs:.4f}% of " \
               f"voxels, Dice {scores}"
        if side != "stock":
            bare = statistics.median(one["bare"] for one in found)
            line += f", wall/bare network {seconds / bare:.2f} ({bare:.2f} s); {found[0]['phases']}"
        print(line)


def main() -> None:
    """Runs all sides in turn, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where scan, weights and results are kept; default: nowhere")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--side", choices=("stock", *SPEEDS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)) / ("large" if arguments.large else "usual")
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, is_large=arguments.large)
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in ("stock", *SPEEDS)}
        for _ in range(arguments.rounds):
            for side, found in runs.items():
                command = [sys.executable, __file__, "--folder", str(folder), "--side", side]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found.append(json.loads(output.splitlines()[-1]))
        report(runs, folder)


if __name__ == "__main__":
    main()
