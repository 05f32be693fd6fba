"""Pictures: the right plane, the right way round, at the right scale."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.preview import (
    LONGEST_SIDE_PIXELS,
    draw_planes,
    in_ras_order,
    orientation_of,
    robust_window,
    spacing_in_ras_order,
    voxel_in_ras_order,
    widest_section,
    write_png,
)

RED = (255, 0, 0)
GAP = 8


def marked(shape: tuple[int, int, int], *voxels: tuple[int, int, int]) -> np.ndarray:
    """Returns zeros with ones at the voxels."""
    volume = np.zeros(shape, dtype=np.float32)
    for voxel in voxels:
        volume[voxel] = 1
    return volume


def bright_corner(panel: np.ndarray) -> tuple[str, str]:
    """Returns in which quarter of the panel the bright pixels lie."""
    rows, columns = np.nonzero(panel.max(axis=2) > 100)
    return ("top" if rows.mean() < panel.shape[0] / 2 else "bottom",
            "left" if columns.mean() < panel.shape[1] / 2 else "right")


def test_right_front_head_are_left_top_top() -> None:
    # The last voxel of each axis is nearest to right, front and head.
    shape = (8, 8, 8)
    picture = draw_planes(marked(shape, (7, 7, 7)), (1, 1, 1), centre=(7, 7, 7))
    size = LONGEST_SIDE_PIXELS
    assert picture.shape == (size, 3 * size + 2 * GAP, 3)
    for left in (0, size + GAP, 2 * (size + GAP)):
        assert bright_corner(picture[:, left : left + size]) == ("top", "left")


def test_planes_are_axial_coronal_sagittal_through_the_centre() -> None:
    size = LONGEST_SIDE_PIXELS
    panels = [slice(n * (size + GAP), n * (size + GAP) + size) for n in range(3)]
    # Each voxel lies on one of the planes through (1, 1, 1) alone: z is 1, then y, then x.
    for seen, voxel in enumerate([(6, 6, 1), (6, 1, 6), (1, 6, 6)]):
        picture = draw_planes(marked((8, 8, 8), voxel), (1, 1, 1), centre=(1, 1, 1))
        assert [bool(picture[:, panel].max() > 100) for panel in panels] == [n == seen for n in range(3)]


def test_millimetres_have_one_scale_in_all_planes() -> None:
    # 40 x 20 x 10 mm: axial 384 x 192 pixels, coronal 384 x 96, sagittal 192 x 96.
    picture = draw_planes(np.ones((40, 10, 2)), (1, 2, 5), centre=(0, 0, 0))
    assert picture.shape == (192, 384 + 384 + 192 + 2 * GAP, 3)


@pytest.mark.parametrize(("shape", "size"), [((1, 6, 3), (192, 384)), ((6, 1, 3), (192, 384)), ((6, 3, 1), (192, 384))])
def test_single_slice_is_one_plane(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert draw_planes(np.ones(shape), (1, 1, 1), centre=(0, 0, 0)).shape == (*size, 3)


def test_outline_runs_along_the_rim_and_leaves_the_inside() -> None:
    mask = np.zeros((10, 10, 1), dtype=bool)
    mask[2:8, 3:7] = True
    picture = draw_planes(np.zeros((10, 10, 1)), (1, 1, 1), labelmap=mask, colours={1: RED}, centre=(0, 0, 0))
    red = (picture == RED).all(axis=2)
    rows, columns = np.nonzero(red)
    # 38.4 pixels a voxel; x 2 to 7 is 77 to 307 pixels, y 3 to 6 is 115 to 269 (both axes reversed, symmetric here).
    assert (columns.min(), columns.max()) == pytest.approx((77, 306), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((115, 268), abs=2)
    assert not red[135:250, 97:287].any()  # corners are rounded by less than half a voxel
    assert red.sum() < 4 * (230 + 154)  # at most two pixels thick


def test_speck_is_seen_in_a_large_scan() -> None:
    mask = marked((800, 800, 1), (400, 400, 0)).astype(bool)
    picture = draw_planes(np.zeros(mask.shape), (1, 1, 1), labelmap=mask, colours={1: RED}, centre=(400, 400, 0))
    assert (picture == RED).all(axis=2).any()


def test_window_ignores_air_and_outliers() -> None:
    rng = np.random.default_rng(0)
    image = np.full((40, 40, 40), -1000.0)
    image[10:30, 10:30, 10:30] = rng.uniform(0, 100, (20, 20, 20))
    image[20, 20, 20] = 30000
    low, high = robust_window(image)
    assert low == pytest.approx(0, abs=5)
    assert high == pytest.approx(100, abs=5)


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_constant_or_empty_image_can_be_drawn(value: float) -> None:
    picture = draw_planes(np.full((4, 4, 4), value), (1, 1, 1), centre=(0, 0, 0))
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_a_voxel_goes_where_its_array_goes(axes: tuple[int, int, int], signs: tuple[int, int, int]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[:, axes]
    volume = marked((3, 5, 7), (0, 1, 4))
    moved = np.argwhere(in_ras_order(volume, affine))[0]
    assert voxel_in_ras_order((0, 1, 4), volume.shape, affine) == tuple(moved)


def test_widest_section_of_two_bars() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[1, 2, 3:8] = True
    mask[1:7, 2, 3] = True
    assert widest_section(mask) == (1, 2, 3)
    assert widest_section(np.zeros((4, 6, 1), dtype=bool)) == (2, 3, 0)


def test_ras_order_of_axes_to_back_left_and_head() -> None:
    # Index axes run to the back, to the left and to the head, spacing 1, 2 and 3 mm.
    affine = np.array([[0, -2, 0, 0], [-1, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    volume = marked((4, 5, 6), (0, 0, 0))
    turned = in_ras_order(volume, affine)
    assert turned.shape == (5, 4, 6)
    # Least to the back and to the left is most to the front and to the right: the last index of both.
    assert turned[4, 3, 0] == 1
    assert spacing_in_ras_order(affine) == (2, 1, 3)
    assert orientation_of(affine) == "PLS"


def test_png_is_the_picture(tmp_path: Path) -> None:
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    write_png(tmp_path / "a.png", picture)
    write_png(tmp_path / "b.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
