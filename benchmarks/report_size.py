"""The report of many cases: how large the file is, and how soon Chromium has opened it.

    python benchmarks/report_size.py [--cases 200] [--shape 64 64 48] [--chromium /usr/bin/chromium] [--keep FOLDER]

Makes noisy, CT-like volumes with an organ and lesions, predictions with wavy borders, evaluates them as the stage does,
renders the report, and opens it three times, each in a new browser: seconds until the load event, and until the viewer
shows its first scan. Limits: 30 MB and 2 seconds.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np
from playwright.sync_api import sync_playwright
from scipy import ndimage

from pipeline import bundle
from pipeline.records.index import Index, IndexedCase, Split, write_index
from pipeline.records.tables import TrainingPoint, write_table
from pipeline.stages import evaluate, report

NAME = "many"
ROOT, WORK = Path("data/raw/many"), Path("work/many")
LABELS = {"organ": 1, "lesion": 2}
EXTENT_MM = 320.0
NOISE_HU = 12.0
WAVE_VOXELS = 1.0
MOST_BYTES, MOST_SECONDS = 30e6, 2.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def make_case(number: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns image, truth and prediction of one case."""
    rng = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))

    def ellipsoid(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        places = (grid - centre[:, None, None, None]) / radii[:, None, None, None]
        return np.asarray(1 - np.sqrt((places**2).sum(axis=0)))

    body = ellipsoid(np.zeros(3), np.array([0.95, 0.75, 1.6]))
    organ = ellipsoid(rng.uniform(-0.2, 0.2, 3), rng.uniform(0.4, 0.55, 3))
    lesions = [ellipsoid(rng.uniform(-0.3, 0.3, 3), rng.uniform(0.05, 0.15, 3)) for _ in range(rng.integers(1, 4))]
    lesion = np.max(lesions, axis=0)
    coarse = ndimage.zoom(rng.normal(size=(7, 7, 5)), [size / few for size, few in zip(shape, (7, 7, 5), strict=True)],
                          order=1)
    image = np.where(body > 0, 20 + 40 * coarse, -1000) + 60 * (organ > 0) - 45 * ((lesion > 0) & (organ > 0))
    image = ndimage.gaussian_filter(image, 0.7) + rng.normal(0, NOISE_HU, shape)
    wave = coarse * WAVE_VOXELS / shape[0]
    maps = [np.where(organ + by > 0, np.where(lesion + 3 * by > 0, 2, 1), 0).astype(np.uint8) for by in (0, wave)]
    return image.astype(np.int16), maps[0], maps[1]


def make_experiment(count: int, shape: tuple[int, int, int]) -> None:
    """Writes what the stages before evaluate leave behind; predictions wait in `ready/`."""
    affine = np.diag([EXTENT_MM / shape[0], EXTENT_MM / shape[1], EXTENT_MM / 2 / shape[2], 1.0])
    cases = []
    for number in range(count):
        name, split = f"case{number:03}", "test" if number else "validation"
        folders = ROOT / "images", ROOT / "labels", Path("ready")
        for folder, array in zip(folders, make_case(number, shape), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
        cases.append(case_of(name, split, shape, affine))
    write_index(WORK / "index.json", Index(NAME, ROOT.as_posix(), "CT", "CC0-1.0", LABELS, tuple(cases)))
    write_table(WORK / "history.csv", TrainingPoint,
                [TrainingPoint(10 * i, i, 1 / i, 1 - 1 / i, 1e-3) for i in range(1, 100)])
    texts = {"plan.yaml": "spacing_mm: [1, 1, 1]\npatch_size: [64, 64, 48]\nprocesses: 1\n"
                          "network_def: {_target_: UNet}\n",
             "schedule.yaml": "iterations: 990\nbatch_size: 2\naccumulation: 1\n", "audit.json": "[]",
             "bundle/models/model.pt.sha256": "0" * 64 + "  model.pt\n"}
    for name, text in texts.items():
        (WORK / name).parent.mkdir(parents=True, exist_ok=True)
        (WORK / name).write_text(text)
    Path(f"configs/{NAME}").mkdir(parents=True)
    Path(f"configs/{NAME}/evaluation.yaml").write_text("lesion_labels: [lesion]\n")


def case_of(name: str, split: Split, shape: tuple[int, int, int], affine: np.ndarray) -> IndexedCase:
    """Returns a line of the index."""
    spacing = (float(affine[0, 0]), float(affine[1, 1]), float(affine[2, 2]))
    return IndexedCase(name, name, split, f"images/{name}.nii.gz", f"labels/{name}.nii.gz", shape, spacing, "RAS",
                       dict.fromkeys(LABELS, 1), "0", "0")


def take_predictions(_: Path, scans: Mapping[str, Path], *, output_dir: Path, **__: Any) -> list[Any]:
    """Stands in for inference."""
    for name in scans:
        (output_dir / name).mkdir(parents=True)
        shutil.copy(f"ready/{name}.nii.gz", output_dir / name / "segmentation.nii.gz")
        said = {"input": name, "input_state": "", "seconds": {}, "labels": {}, "low_confidence": False}
        (output_dir / name / "report.json").write_text(json.dumps(said))
    (output_dir / "summary.json").write_text(json.dumps({"scans": []}))
    (output_dir / "summary.csv").write_text("input,seconds\n")
    return []


def open_page(path: Path, chromium: str) -> tuple[float, float]:
    """Returns the seconds until the load event and until the viewer shows its first scan."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        start = perf_counter()
        page.goto(path.resolve().as_uri(), wait_until="load")
        loaded = perf_counter() - start
        page.wait_for_function("document.querySelector('.viewer .here').textContent")
        shown = perf_counter() - start
        browser.close()
    return loaded, shown


def main() -> None:
    """Makes, renders, opens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 48])
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--keep", type=Path, help="a folder that the report is copied into")
    arguments = parser.parse_args()
    keep = arguments.keep and arguments.keep.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_experiment(arguments.cases, tuple(arguments.shape))
        bundle.segment = take_predictions
        evaluate.run(NAME)
        start = perf_counter()
        report.run(NAME)
        page = Path(f"reports/{NAME}/index.html")
        size = page.stat().st_size
        print(f"rendered in {perf_counter() - start:.1f} s: {size / 1e6:.1f} MB, limit {MOST_BYTES / 1e6:.0f}")
        loaded, shown = (statistics.median(times)
                         for times in zip(*(open_page(page, arguments.chromium) for _ in range(3)), strict=True))
        print(f"load event after {loaded:.2f} s, limit {MOST_SECONDS:.0f}; first scan shown after {shown:.2f} s")
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(page, keep)


if __name__ == "__main__":
    main()
