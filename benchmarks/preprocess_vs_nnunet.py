"""From raw scans to what training reads: Segline's stages against `nnUNetv2_plan_and_preprocess`, start-up included.

    python benchmarks/preprocess_vs_nnunet.py --data data/raw/hippocampus --index work/hippocampus_3d/index.json \\
      --nnunet VENV/bin/python [--rounds 3] [--folder DIR]

Both sides prepare the index's training and validation cases with two processes: nnU-Net takes its fingerprint, plans
and preprocesses `3d_fullres`; Segline audits (it reads and checks every image and label, those of the test cases too),
plans and preprocesses. Then Segline preprocesses a quarter of the cases alone: the memory of its largest process tells
whether it grows with their number.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep

import psutil
from nnunet_peer import Cases, Nnunet, lay_out
from train_vs_peers import EXPERIMENT, copied_project

STAGES = ("audit", "plan", "preprocess")
POLL_S = 0.01


def lay_out_for_training(data: Path, index: Path, folder: Path) -> Cases:
    """Gives nnU-Net as training cases what Segline preprocesses: those for training and for validation."""
    content = json.loads(index.read_text())
    content["cases"] = [case | {"split": "train"} for case in content["cases"] if case["split"] != "test"]
    changed = folder / "index.json"
    changed.write_text(json.dumps(content))
    return lay_out(data, changed, folder)


def run_segline(project: Path) -> dict[str, float]:
    """Returns the seconds of each stage."""
    seconds = {}
    for stage in STAGES:
        start = perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", stage, "--experiment", EXPERIMENT], cwd=project, check=True,
                       stdout=sys.stderr)
        seconds[stage] = perf_counter() - start
    return seconds


def peak_mib(project: Path, *, share: float) -> tuple[int, float]:
    """Returns how many cases this share of the index is, and the most memory that one process takes on them."""
    path = project / f"work/{EXPERIMENT}/index.json"
    whole = path.read_text()
    content = json.loads(whole)
    content["cases"] = content["cases"][: round(share * len(content["cases"]))]
    path.write_text(json.dumps(content))
    stage = psutil.Popen([sys.executable, "-m", "pipeline", "preprocess", "--experiment", EXPERIMENT], cwd=project,
                         stdout=subprocess.DEVNULL)
    peak = 0
    while stage.poll() is None:
        # Of all below it: the server of processes is not waited for, so no account of children has its workers.
        for process in (stage, *stage.children(recursive=True)):
            with suppress(psutil.Error):
                peak = max(peak, process.memory_info().rss)
        sleep(POLL_S)
    assert stage.returncode == 0
    path.write_text(whole)
    return len(content["cases"]), peak / 2**20


def main() -> None:
    """Runs both sides in turn, round by round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--nnunet", required=True, help="the Python that has nnU-Net v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        cases = lay_out_for_training(arguments.data, arguments.index, folder)
        nnunet = Nnunet(arguments.nnunet, cases, "3d_fullres")
        project = copied_project(folder / "project", arguments.data, EXPERIMENT)
        peer, own = [], []
        for _ in range(arguments.rounds):
            peer.append(nnunet.plan_and_preprocess("-npfp", "2"))
            own.append(run_segline(project))
        theirs, ours = statistics.median(peer), statistics.median(sum(one.values()) for one in own)
        print(f"nnUNetv2_plan_and_preprocess {theirs:.1f} s; Segline {ours:.1f} s "
              f"({', '.join(f'{stage} {own[-1][stage]:.1f}' for stage in STAGES)}): {theirs / ours:.2f} times as fast")
        for share in (0.25, 1.0):
            count, mib = peak_mib(project, share=share)
            print(f"Segline's largest process on {count} cases: {mib:.0f} MiB")


if __name__ == "__main__":
    main()
