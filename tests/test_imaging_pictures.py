import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from pipeline.imaging.image_files import read_image, read_label_map
from pipeline.imaging.pictures import read_picture, write_label_picture
from pipeline.imaging.preview import draw_planes, in_ras_order, spacing_in_ras_order
from pipeline.records.errors import InputError

# Four columns, three rows; each corner has a value of its own.
GREY = np.array([[10, 0, 0, 40], [0, 0, 0, 0], [70, 0, 0, 90]], dtype=np.uint8)
COLOURS = np.stack([GREY, GREY + 1, GREY + 2], axis=-1)
CORNERS = {(0, 0): 10, (3, 0): 40, (0, 2): 70, (3, 2): 90}  # by column and row


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def reason_of(path: Path, *, as_labels: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path, as_labels=as_labels)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF", "png.nii.gz"])
def test_x_is_the_column_and_y_the_row_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    scan = read_image(saved(tmp_path / name, GREY, format="TIFF" if "tif" in name.lower() else "PNG"))
    assert scan.array.shape == scan.grid_shape == (4, 3, 1)
    assert (scan.array.dtype, scan.shape_on_disk, scan.warnings) == (np.float32, (4, 3), ())
    assert {corner: scan.array[(*corner, 0)] for corner in CORNERS} == CORNERS
    assert scan.spacing_mm == (1, 1, 1)
    assert scan.picture is not None
    assert not scan.picture.has_spacing


def test_a_label_picture_keeps_every_corner_there_and_back(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16):
        labels = np.zeros((4, 3, 1), dtype=dtype)
        for corner, value in CORNERS.items():
            labels[(*corner, 0)] = value * (1 if dtype == np.uint8 else 700)
        write_label_picture(tmp_path / "a.png", labels)
        np.testing.assert_array_equal(read_label_map(tmp_path / "a.png").array, labels)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), labels[..., 0].T)


def test_a_picture_is_drawn_as_viewers_show_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    scan = read_image(saved(tmp_path / "a.png", pixels))
    shown = np.stack([in_ras_order(channel, scan.affine) for channel in scan.channels])
    drawn = draw_planes(shown, spacing_in_ras_order(scan.affine), centre=(0, 0, 0))
    assert drawn.shape == (288, 384, 3)  # 48 rows and 64 columns, six times as large
    # In the middles of the squares, where nothing is interpolated; the ends of the window are clipped.
    np.testing.assert_allclose(drawn[24::48, 24::48].astype(int), pixels[4::8, 4::8], atol=20)


def test_colours_are_three_channels(tmp_path: Path) -> None:
    scan = read_image(saved(tmp_path / "a.png", COLOURS))
    assert scan.array.shape == scan.channels.shape == (3, 4, 3, 1)
    assert scan.grid_shape == (4, 3, 1)
    assert [float(channel[3, 0, 0]) for channel in scan.array] == [40, 41, 42]


@pytest.mark.parametrize(("alpha", "warnings"), [
    (255, ()), (7, ("the alpha channel is dropped: it makes 100.0% of the pixels transparent",)),
])
def test_alpha_is_dropped_and_what_it_hides_is_said(alpha: int, warnings: tuple[str, ...], tmp_path: Path) -> None:
    for base, channels in ((GREY[..., None], 1), (COLOURS, 3)):
        pixels = np.concatenate([base, np.full((3, 4, 1), alpha, np.uint8)], axis=-1)
        scan = read_image(saved(tmp_path / "a.png", pixels))
        assert len(scan.channels) == channels
        assert scan.channels[0][3, 0, 0] == 40
        assert scan.warnings == warnings


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    grey = GREY.astype(np.uint16) * 700
    for name in ("a.png", "a.tif"):
        assert read_image(saved(tmp_path / name, grey)).array[3, 0, 0] == 28_000
    for channels in (3, 4):
        pixels = np.stack([grey] * 3 + [np.full_like(grey, 65535)], axis=-1)[..., :channels]
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), str(tmp_path / "b.png"))
        scan = read_image(tmp_path / "b.png")
        assert scan.array.shape == (3, 4, 3, 1)
        assert (scan.array[:, 3, 0, 0] == 28_000).all()
        assert scan.warnings == ()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels[..., :3], isVector=True), str(tmp_path / "b.tif"))
    assert reason_of(tmp_path / "b.tif") == "unsupported-encoding"


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint32, np.uint8])
def test_numbers_of_a_tiff(dtype: type, tmp_path: Path) -> None:
    values = (GREY.astype(np.float64) * 2.5e7 if dtype == np.uint32 else GREY).astype(dtype)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(tmp_path / "a.tif"))
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").array[..., 0].T, values.astype(np.float32))


def test_a_palette_is_colours_in_an_image_and_values_in_a_label_map(tmp_path: Path) -> None:
    picture = Image.fromarray((GREY > 0).astype(np.uint8) * 2, mode="P")
    picture.putpalette([0, 0, 0, 1, 1, 1, 200, 100, 50])
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").array[:, 0, 0, 0].tolist() == [200, 100, 50]
    assert read_label_map(tmp_path / "a.png").array[0, 0, 0] == 2


def test_a_label_map_of_few_bits_has_the_stored_values(tmp_path: Path) -> None:
    saved(tmp_path / "one.png", GREY > 0)
    assert np.unique(read_label_map(tmp_path / "one.png").array).tolist() == [0, 1]
    assert np.unique(read_image(tmp_path / "one.png").array).tolist() == [0, 255]
    # One row of four pixels of two bits: 0, 1, 2, 3.
    write_png(tmp_path / "two.png", (4, 1, 2, 0, 0), b"\0\x1b")
    assert read_label_map(tmp_path / "two.png").array[:, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_label_map_of_three_equal_channels_is_one_and_of_colours_is_refused(tmp_path: Path) -> None:
    grey = np.stack([GREY] * 3, axis=-1)
    np.testing.assert_array_equal(read_label_map(saved(tmp_path / "a.png", grey)).array[..., 0].T, GREY)
    assert reason_of(saved(tmp_path / "b.png", COLOURS), as_labels=True) == "not-single-channel"


@pytest.mark.parametrize(("options", "spacing"), [
    ({"dpi": (72, 72)}, None),  # says how large to print
    ({"dpi": (144, 144)}, None),
    ({"dpi": (1200, 1200)}, None),
    ({"resolution_unit": 3, "x_resolution": 118.11, "y_resolution": 118.11}, None),  # 300 dots an inch
    ({"resolution_unit": 3, "x_resolution": 20000.0, "y_resolution": 10000.0}, (0.0005, 0.001)),
    ({"resolution_unit": 2, "x_resolution": 2540.0, "y_resolution": 2540.0}, (0.01, 0.01)),
    ({"resolution_unit": 1, "x_resolution": 4.0, "y_resolution": 4.0, "description": "ImageJ=1\nunit=mm\n"},
     (0.25, 0.25)),  # named: as it says
    ({"resolution_unit": 1, "x_resolution": 4.0, "y_resolution": 4.0}, None),
    ({"resolution_unit": 1, "x_resolution": 4.0, "y_resolution": 4.0,
      "description": "ImageJ=1.53k\nunit=micron\n"}, (0.00025, 0.00025)),
])
def test_spacing_of_a_tiff(options: dict[str, object], spacing: tuple[float, float] | None, tmp_path: Path) -> None:
    scan = read_image(saved(tmp_path / "a.tif", GREY, **options))
    assert scan.picture is not None
    assert scan.picture.has_spacing == (spacing is not None)
    assert scan.spacing_mm[:2] == pytest.approx(spacing or (1, 1))


def test_a_picture_that_viewers_turn_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert reason_of(saved(tmp_path / "a.png", GREY, exif=exif)) == "turned-picture"
    assert reason_of(saved(tmp_path / "a.tif", GREY, tiffinfo={274: 3})) == "turned-picture"


def test_several_pages_and_animations_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for name in ("a.png", "a.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert reason_of(tmp_path / name) == "several-pages"


def test_channels_that_would_be_lost_are_refused(tmp_path: Path) -> None:
    five = np.stack([GREY] * 5, axis=-1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(five, isVector=True), str(tmp_path / "a.tif"))
    assert reason_of(tmp_path / "a.tif") == "unsupported-encoding"
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "b.tif")
    assert reason_of(tmp_path / "b.tif") == "unsupported-encoding"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_cut_anywhere_is_refused(compression: str | None, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    whole = saved(tmp_path / "a.tif", noise, compression=compression).read_bytes()
    for size in range(0, len(whole), len(whole) // 25):
        (tmp_path / "cut.tif").write_bytes(whole[:size])
        assert reason_of(tmp_path / "cut.tif") in ("truncated-file", "damaged-file", "not-an-image")


def test_a_png_cut_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.png", COLOURS).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut.png").write_bytes(whole[:size])
        assert reason_of(tmp_path / "cut.png") == ("not-an-image" if 0 < size < 8 else "truncated-file")
    for at in range(8, len(whole)):
        (tmp_path / "bad.png").write_bytes(whole[:at] + bytes([whole[at] ^ 32]) + whole[at + 1 :])
        assert reason_of(tmp_path / "bad.png") in ("damaged-file", "truncated-file")


def test_an_interlaced_png(tmp_path: Path) -> None:
    # Of two by two pixels the first pass has one, the sixth one, the seventh a row; each row has its filter in front.
    rows = b"\0\x01" + b"\0\x02" + b"\0\x03\x04"
    write_png(tmp_path / "a.png", (2, 2, 8, 0, 1), rows)
    assert read_image(tmp_path / "a.png").array[..., 0].T.tolist() == [[1, 2], [3, 4]]
    write_png(tmp_path / "a.png", (2, 2, 8, 0, 1), rows[:-1])
    assert reason_of(tmp_path / "a.png") == "truncated-file"


def write_png(path: Path, header: tuple[int, int, int, int, int], rows: bytes) -> Path:
    """Writes a PNG of (width, height, bits, colour type, interlace) by hand, with as few rows as given."""
    width, height, bits, colour, interlace = header
    chunks = [(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, interlace])),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks))
    return path
