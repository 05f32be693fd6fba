"""What a page carries to scroll through a case: the right voxels, few enough, the same bytes."""

import base64
import gzip

import numpy as np
import pytest

from pipeline.imaging.comparisons import Comparison
from pipeline.imaging.page_volumes import PageVolume, pack_volume

LABELS = {"organ": 3, "lesion": 7}


def comparison(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> Comparison:
    """Returns a ramp along x with an organ in the truth, and the organ and a lesion in the prediction."""
    image = np.broadcast_to(np.arange(shape[0], dtype=np.float32)[:, None, None], shape)
    truth, prediction = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.int16)
    truth[20:24, 20:28, 5:6] = prediction[20:24, 20:28, 5:6] = 3
    prediction[30, 30, 6] = 7
    return Comparison(image, truth, prediction, np.diag([*spacing, 1.0]))


def unpacked(volume: PageVolume) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns image (channels first), truth and prediction as the page reads them."""
    content = np.frombuffer(gzip.decompress(base64.b64decode(volume.data)), dtype=np.uint8)
    parts = content.reshape(volume.channels + 2, *volume.shape)
    return parts[:-2], parts[-2], parts[-1]


def test_a_small_scan_is_whole_and_its_labels_are_positions() -> None:
    scan = comparison((64, 48, 8))
    volume = pack_volume(scan, (21, 22, 5), labels=LABELS)
    image, truth, prediction = unpacked(volume)
    assert volume.shape == (64, 48, 8)
    assert volume.start == (21, 22, 5)
    assert volume.labels == ("background", "organ", "lesion", "other")
    assert np.array_equal(truth, np.where(scan.truth == 3, 1, 0))
    assert prediction[30, 30, 6] == 2
    # A byte is an intensity between the ends that the volume names.
    intensities = volume.darkest + image[0] / 255 * (volume.brightest - volume.darkest)
    assert np.abs(intensities - scan.image).max() < 0.2
    assert (volume.darkest, volume.brightest) == (0, 63)


def test_a_large_scan_is_cut_to_its_labels_with_a_margin() -> None:
    scan = comparison((200, 90, 40), spacing=(1, 3, 5))
    volume = pack_volume(scan, (22, 20, 5), labels=LABELS, most_voxels=46 * 21 * 9)
    image, truth, _ = unpacked(volume)
    # x 20 to 30 with 15 voxels of 1 mm, y 20 to 30 with 5 of 3 mm, z 5 to 6 with 3 of 5 mm.
    assert volume.shape == (41, 21, 8)
    assert volume.thinned == (1, 1, 1)
    assert volume.start == (22 - 5, 20 - 15, 5 - 2)
    assert truth[20 - 5, 20 - 15, 5 - 2] == 1
    assert np.count_nonzero(truth) == 32
    assert volume.darkest + image[0, 0, 0, 0] / 255 * (volume.brightest - volume.darkest) == pytest.approx(5, abs=0.2)


def test_a_scan_that_is_still_too_large_is_thinned_along_its_finest_axes() -> None:
    volume = pack_volume(comparison((200, 90, 40), spacing=(1, 2, 5)), (22, 20, 5), labels=LABELS, most_voxels=5_000)
    image, truth, _ = unpacked(volume)
    # 41 x 27 x 8 is too many, and so is 21 x 27 x 8, where x is still as fine as y; then y would be as coarse as x.
    assert volume.thinned == (2, 1, 1)
    assert volume.shape == (21, 27, 8)
    assert volume.spacing_mm == (2, 2, 5)
    assert volume.start == (17 // 2, 20 - 12, 3)
    assert truth[volume.start] == 1
    # The first block holds x 5 and 6.
    assert volume.darkest + image[0, 0, 0, 0] / 255 * (volume.brightest - volume.darkest) == pytest.approx(5.5, abs=0.2)


def test_a_flat_picture_in_colour_keeps_its_channels() -> None:
    shape = (30, 20, 1)
    image = np.stack([np.full(shape, level, dtype=np.float32) for level in (0, 128, 255)])
    empty = np.zeros(shape, dtype=np.int16)
    volume = pack_volume(Comparison(image, empty, empty, np.eye(4)), (15, 10, 0), labels=LABELS, most_voxels=200)
    shown, truth, _ = unpacked(volume)
    assert volume.channels == 3
    assert volume.thinned == (2, 2, 1)
    assert [int(np.unique(channel).item()) for channel in shown] == [0, 128, 255]
    assert not truth.any()


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_an_even_image_and_one_without_numbers_are_shown(value: float) -> None:
    empty = np.zeros((4, 4, 4), dtype=np.int16)
    volume = pack_volume(Comparison(np.full((4, 4, 4), value, dtype=np.float32), empty, empty, np.eye(4)), (0, 0, 0),
                         labels=LABELS)
    assert volume.brightest > volume.darkest
    assert unpacked(volume)[0].shape == (1, 4, 4, 4)


def test_the_same_case_gives_the_same_bytes() -> None:
    first, second = (pack_volume(comparison((64, 48, 8)), (1, 2, 3), labels=LABELS) for _ in range(2))
    assert first == second
