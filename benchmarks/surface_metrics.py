"""Surface scores of a 512x512x120 label map: Segline's against MONAI's and the surface-distance package.

    python benchmarks/surface_metrics.py [--rounds 3]

The truth is the organ and lesions of a CT-like scan; the prediction the same, smoothed and with wavy borders. Both
sides give the surface Dice by area at 1 mm, which must agree; SimpleITK and the like have no such score. Then the 95th
percentile Hausdorff distance, which MONAI has too.
"""

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter

import numpy as np
import surface_distance
import torch
from ct_like_scan import SPACING_MM, make_scan
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from pipeline.surfaces import hd95_mm, nsd, surfaces_of

TOLERANCE_MM = 1.0
WAVE_VOXELS = 1.5


def masks() -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and prediction ``(x, y, z)``."""
    truth = make_scan()[1] > 0
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(9, 9, 5))
    wave = ndimage.zoom(coarse, [size / few for size, few in zip(truth.shape, coarse.shape, strict=True)], order=1)
    inside, outside = (ndimage.gaussian_filter(mask.astype(np.float32), 2) for mask in (truth, ~truth))
    return truth, inside - outside + WAVE_VOXELS / 8 * wave > 0


def batched(mask: np.ndarray) -> torch.Tensor:
    """Returns ``(1, 1, x, y, z)``, as MONAI's metrics take them."""
    return torch.from_numpy(mask[None, None].astype(np.float32))


def timed(measure: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Returns the median of the seconds, and the score."""
    seconds = []
    for _ in range(rounds):
        start = perf_counter()
        score = measure()
        seconds.append(perf_counter() - start)
    return statistics.median(seconds), score


def main() -> None:
    """Runs all sides one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    truth, prediction = masks()
    as_tensors = batched(prediction), batched(truth)

    def theirs() -> float:
        distances = surface_distance.compute_surface_distances(truth, prediction, SPACING_MM)
        return float(surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM))

    sides: dict[str, dict[str, Callable[[], float]]] = {
        "surface Dice": {
            "Segline": lambda: nsd(*surfaces_of(truth, prediction, spacing_mm=SPACING_MM), tolerance_mm=TOLERANCE_MM),
            "surface-distance": theirs,
            "MONAI": lambda: float(compute_surface_dice(*as_tensors, [TOLERANCE_MM], include_background=True,
                                                        spacing=SPACING_MM, use_subvoxels=True)),
        },
        "HD95": {
            "Segline": lambda: hd95_mm(truth, prediction, spacing_mm=SPACING_MM),
            "MONAI": lambda: float(compute_hausdorff_distance(*as_tensors, include_background=True, percentile=95,
                                                              spacing=SPACING_MM)),
        },
    }
    for score, measures in sides.items():
        for measure in measures.values():
            measure()  # tables and imports
        found = {name: timed(measure, rounds) for name, measure in measures.items()}
        ours = found["Segline"][0]
        for name, (seconds, value) in found.items():
            print(f"{score:12} {name:17} {seconds:7.3f} s, this/Segline {seconds / ours:6.1f}, {value:.6f}")


if __name__ == "__main__":
    main()
