"""Calibration by hand, and against a model whose probabilities are true by construction."""

import math

import numpy as np
import pytest

from pipeline.calibration import Reliability


def test_ten_voxels_by_hand() -> None:
    found = Reliability()
    # Four voxels 0.92 sure, three of them right; six 0.52 sure, all right: (4 |0.75 - 0.92| + 6 |1 - 0.52|) / 10.
    found.add(np.array([0.92] * 4 + [0.52] * 6), np.array([True, True, True, False] + [True] * 6))
    assert found.ece == pytest.approx(0.356)
    assert found.curve == [(pytest.approx(0.52), 1.0, 6), (pytest.approx(0.92), 0.75, 4)]


def test_true_probabilities_have_no_error_and_boasting_has() -> None:
    random = np.random.default_rng(4)
    sure = random.uniform(0.5, 1.0, 200_000).astype(np.float32)
    is_right = random.random(sure.size) < sure
    honest, boasting = Reliability(), Reliability()
    honest.add(sure, is_right)
    boasting.add(np.sqrt(sure), is_right)
    assert honest.ece < 0.005
    # The mean of the root of x over 0.5 to 1, less that of x.
    assert boasting.ece == pytest.approx((2 / 3) * (1 - 0.5**1.5) / 0.5 - 0.75, abs=0.005)


def test_scans_add_up_and_certainty_has_its_place() -> None:
    found = Reliability()
    found.add(np.ones((2, 3, 1), dtype=np.float32), np.ones((2, 3, 1), dtype=bool))
    found.add(np.zeros(2), np.zeros(2, dtype=bool))
    assert found.curve == [(0.0, 0.0, 2), (1.0, 1.0, 6)]
    assert found.ece == 0.0
    assert math.isnan(Reliability().ece)
