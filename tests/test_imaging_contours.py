"""Contours of masks: the right corners by hand, and back to the same mask by four ways of filling."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.imaging.contours import Contour, fill_contours, trace_contours


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[char == "#" for char in row] for row in rows])


SHAPES = {
    "single pixel": mask_of("...", ".#.", "..."),
    "whole image": mask_of("###", "###"),
    "touching diagonally, falling": mask_of("#.", ".#"),
    "touching diagonally, rising": mask_of(".#", "#."),
    "chessboard": mask_of("#.#.#", ".#.#.", "#.#.#"),
    "hole": mask_of("###", "#.#", "###"),
    "two holes in a row": mask_of("#####", "#.#.#", "#####"),
    "two holes touching diagonally": mask_of("####", "#.##", "##.#", "####"),
    "two holes on one edge": mask_of("######", "#.##.#", "####.#", "#.##.#", "######"),
    "hole touching the outside diagonally": mask_of(".###", "#.##", "####"),
    "island in a hole": mask_of("#####", "#...#", "#.#.#", "#...#", "#####"),
    "ring in a ring": mask_of("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),
    "comb": mask_of("#.#.#", "#.#.#", "#####"),
    "one row": mask_of("#.##.#"),
    "one column": mask_of("#", ".", "#"),
}


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random(tuple(rng.integers(1, 12, 2))) < rng.random() for _ in range(400)]


def wound(contour: Contour, shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels that the contour winds around, whatever the direction: each edge in turn, in plain loops."""
    winding = np.zeros(shape, dtype=int)
    for (x, y), (next_x, next_y) in zip(contour, np.roll(contour, -1, axis=0), strict=True):
        assert x == next_x or y == next_y
        for row in range(shape[0]):
            if min(y, next_y) <= row < max(y, next_y):
                winding[row, int(np.ceil(x)) :] += 1 if next_y > y else -1
    return winding != 0


def drawn_by_pillow(contours: list[Contour], shape: tuple[int, int]) -> np.ndarray:
    """Returns the union of the contours as Pillow fills them, 20 times enlarged so that its rims do not matter."""
    picture = Image.new("1", (shape[1] * 20, shape[0] * 20))
    for contour in contours:
        ImageDraw.Draw(picture).polygon([tuple(point) for point in ((contour + 0.5) * 20).tolist()], fill=1)
    return np.asarray(picture)[10::20, 10::20]


@pytest.mark.parametrize("name", list(SHAPES))
def test_contours_fill_to_the_mask_by_xor_by_union_by_winding_and_by_pillow(name: str) -> None:
    mask = SHAPES[name]
    contours = trace_contours(mask)
    assert len(contours) == ndimage.label(mask)[1]
    assert np.array_equal(fill_contours(contours, mask.shape), mask)
    assert np.array_equal(np.any([fill_contours([one], mask.shape) for one in contours], axis=0), mask)
    assert np.array_equal(np.any([wound(one, mask.shape) for one in contours], axis=0), mask)
    assert np.array_equal(drawn_by_pillow(contours, mask.shape), mask)


def test_random_masks_come_back() -> None:
    for mask in random_masks():
        contours = trace_contours(mask)
        assert len(contours) == ndimage.label(mask)[1]
        assert np.array_equal(fill_contours(contours, mask.shape), mask)
        for one, number in zip(contours, range(len(contours)), strict=True):
            assert np.array_equal(wound(one, mask.shape), fill_contours([one], mask.shape)), number


def test_pixel_has_its_four_corners() -> None:
    (contour,) = trace_contours(SHAPES["single pixel"])
    assert {tuple(point) for point in contour.tolist()} == {(0.5, 0.5), (1.5, 0.5), (1.5, 1.5), (0.5, 1.5)}


def test_straight_edges_have_no_points_between_their_ends() -> None:
    (contour,) = trace_contours(np.ones((50, 70), dtype=bool))
    assert len(contour) == 4


def test_hole_is_joined_by_a_channel_passed_twice() -> None:
    (contour,) = trace_contours(SHAPES["hole"])
    # Four corners outside, four inside, the hole's first corner again, and the channel's end on the left edge twice.
    assert len(contour) == 11
    assert contour.tolist().count([-0.5, 0.5]) == 2
    assert contour.tolist().count([0.5, 0.5]) == 2
    (x, y), (next_x, next_y) = contour.T, np.roll(contour, -1, axis=0).T
    assert abs(np.sum(x * next_y - next_x * y)) / 2 == 8


def test_empty_mask_has_no_contours() -> None:
    assert trace_contours(np.zeros((3, 4), dtype=bool)) == []
    assert not fill_contours([], (3, 4)).any()


def test_hole_as_a_contour_of_its_own_is_cut_out() -> None:
    square, hole = (np.array([[0, 0], [4, 0], [4, 4], [0, 4]]) + 0.5, np.array([[1, 1], [3, 1], [3, 3], [1, 3]]) + 0.5)
    expected = mask_of("......", ".####.", ".#..#.", ".#..#.", ".####.", "......")
    assert np.array_equal(fill_contours([square, hole], (6, 6)), expected)


def test_what_lies_beyond_the_edge_is_cut_off() -> None:
    diamond = np.array([[0.0, -5.2], [5.2, 0], [0, 5.2], [-5.2, 0]])
    x, y = np.meshgrid(np.arange(4), np.arange(3))
    assert np.array_equal(fill_contours([diamond], (3, 4)), x + y < 5.2)
    assert not fill_contours([diamond + 100], (3, 4)).any()
    assert fill_contours([diamond * 100], (3, 4)).all()
