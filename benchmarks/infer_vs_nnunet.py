"""60 hippocampus scans from files to segmentations: Segline against `nnUNetv2_predict`, start-up included.

    python benchmarks/infer_vs_nnunet.py --data data/raw/hippocampus --index work/hippocampus_3d/index.json \\
      --bundle models/hippocampus_3d --nnunet VENV/bin/python [--minutes 15] [--folder DIR]

nnU-Net v2 comes from an environment of its own (see nnunet_peer.py). It plans and trains on the same training cases as
the bundle for so many minutes, its learning rate falling to nothing by their end (its own thousand epochs take weeks on
two cores), and then both segment the cases that neither was trained on.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from nnunet_peer import Nnunet, lay_out

PEER = "nnUNetv2_predict"
MODES = {PEER: (), f"{PEER} --disable_tta": ("--disable_tta",)}
COMMANDS = {"monai.bundle run": ("-m", "monai.bundle", "run"), "pipeline segment": ("-m", "pipeline", "segment")}


def run_segline(bundle: Path, scans: Path, out: Path, *, command: str, speed: str) -> float:
    """Segments a folder by one of our commands; returns its seconds, start-up included."""
    words = [*COMMANDS[command], "--input", str(scans), "--output_dir", str(out), "--speed", speed]
    is_bundle_run = command == "monai.bundle run"
    words += ["--config_file", str(bundle / "configs/inference.yaml"), "--bundle_root", str(bundle)] \
        if is_bundle_run else ["--bundle", str(bundle)]
    start = perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


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
        cases = lay_out(arguments.data, arguments.index, folder)
        nnunet = Nnunet(arguments.nnunet, cases, "3d_fullres")
        nnunet.train(minutes=arguments.minutes)
        rows = {}
        for name, words in MODES.items():
            seconds, masks = nnunet.predict(folder / "out" / name, *words)
            rows[name] = seconds, cases.mean_dice(masks)
        for command, speed in ((command, speed) for command in COMMANDS for speed in ("exact", "fast", "fastest")):
            out = folder / "out" / f"{command} {speed}"
            seconds = run_segline(arguments.bundle, cases.scans, out, command=command, speed=speed)
            rows[out.name] = seconds, cases.mean_dice(
                {case: out / f"{case}_0000" / "segmentation.nii.gz" for case in cases.truths})
    peer = rows[PEER][0]
    for name, (seconds, dice) in rows.items():
        print(f"{name:34} {seconds:7.1f} s, {seconds / len(cases.truths):6.2f} s a scan, "
              f"nnU-Net/this {peer / seconds:5.2f}, mean Dice {dice:.4f}")


if __name__ == "__main__":
    main()
