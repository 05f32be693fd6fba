"""Lesions, Dice and IoU against panoptica, which wants an older NumPy and so has an environment of its own.

SEGLINE_PANOPTICA names its Python; .ci/run makes one.
"""

import json
import os
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.metrics import find_lesions, score_label

PANOPTICA = os.environ.get("SEGLINE_PANOPTICA")
SCRIPT = """
import contextlib, io, json, sys
import numpy as np
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.metrics import Metric
found = []
for path in sys.argv[1:]:
    masks = np.load(path)
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC, instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(matching_threshold=0.0), global_metrics=[Metric.DSC, Metric.IOU])
    prediction, truth = (masks[name].astype(np.uint8) for name in ("prediction", "truth"))
    with contextlib.redirect_stdout(io.StringIO()):
        result = evaluator.evaluate(prediction, truth, verbose=False)
    result = result["ungrouped"] if isinstance(result, dict) else result
    found.append([result.tp, result.fn, result.fp, result.global_bin_dsc, result.global_bin_iou])
print(json.dumps(found))
"""


def random_lesions(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and prediction: in each cell of 8 voxels nothing, or a lesion found, shifted, missed or made up."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for corner in product(*(range(0, size, 8) for size in shape)):
        kind = random.choice(["found", "shifted", "missed", "made up", "nothing"])
        size = random.integers(2, 5, 3)
        here = tuple(slice(start + 1, start + 1 + int(extent)) for start, extent in zip(corner, size, strict=True))
        moved = (slice(here[0].start + 1, here[0].stop + 1), *here[1:])
        if shape[2] == 1:
            here, moved = (*here[:2], slice(0, 1)), (*moved[:2], slice(0, 1))
        truth[here] |= kind in ("found", "shifted", "missed")
        prediction[moved if kind == "shifted" else here] |= kind in ("found", "shifted", "made up")
    return truth, prediction


@pytest.mark.skipif(PANOPTICA is None, reason="SEGLINE_PANOPTICA names no Python with panoptica")
def test_lesions_and_overlap_are_those_of_panoptica(tmp_path: Path) -> None:
    cases = [random_lesions(shape, seed) for seed, shape in enumerate([(40, 32, 24), (24, 24, 16), (64, 48, 1)] * 3)]
    paths = []
    for number, (truth, prediction) in enumerate(cases):
        paths.append(tmp_path / f"{number}.npz")
        # panoptica takes a single slice as it is: without its third axis.
        seen = (..., 0) if truth.shape[2] == 1 else ...
        np.savez(paths[-1], truth=truth[seen], prediction=prediction[seen])
    done = subprocess.run([str(PANOPTICA), "-c", SCRIPT, *map(str, paths)], capture_output=True, text=True, check=True)
    for (truth, prediction), wanted in zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True):
        score = score_label(truth, prediction, spacing_mm=(1.0, 1.0, 1.0))
        lesions = find_lesions(truth, prediction, spacing_mm=(1.0, 1.0, 1.0))
        found, made_up = sum(lesion.is_found for lesion in lesions), score.false_positive_components
        assert [found, len(lesions) - found, made_up, score.dice, score.iou] == pytest.approx(wanted)
        assert min(found, made_up) > 0
