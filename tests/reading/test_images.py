"""The door itself: files, folders and arrays come in as (h, w, 4) uint8, or as an error saying what to do."""

from __future__ import annotations

import io
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leanmed.errors import InputError, InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading import images as door
from leanmed.reading.images import Limits, as_pixels, find_inputs, read_image

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, form, **options)
    return stream.getvalue()


def odd_exif():
    """A JPEG of whose EXIF Pillow warns: it declares five entries and holds none."""
    block = b"Exif\0\0II*\0\x08\0\0\0\x05\0"
    data = encoded(PHOTO, "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PHOTO))
    return path


# --- files


def test_a_file_and_its_bytes_read_alike(photo):
    pixels = read_image(photo)
    np.testing.assert_array_equal(pixels[..., :3], PHOTO)
    assert pixels.shape == (12, 16, 4)
    assert (pixels[..., 3] == 255).all()
    np.testing.assert_array_equal(read_image(photo.read_bytes()), pixels)


@pytest.mark.parametrize("name", ["ωδή 目.png", "with space.PNG", "[1].png", "no-suffix"])
def test_unusual_names_and_links_are_followed(photo, tmp_path, name):
    link = tmp_path / name
    link.symlink_to(photo)
    np.testing.assert_array_equal(read_image(link), read_image(photo))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"dear doctor, the picture follows", "begins with b'dear doc'"),
        (bytes(1000), "expected JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (np.random.default_rng(0).bytes(1000), "expected JPEG, PNG, TIFF, BMP, WebP or DICOM"),
        (b"\xff\xd8\xff", "copy or export it again"),
    ],
)
def test_what_is_no_image_is_unreadable_whatever_it_is_called(tmp_path, content, expected):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableInput, match=expected) as caught:
        read_image(path)
    assert str(caught.value).startswith(repr(str(path)))


def test_paths_that_are_no_regular_file_are_unreadable(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    missing, loop, nul = tmp_path / "missing.png", tmp_path / "loop.png", Path("a\0b.png")
    for path in (missing, loop, nul):
        with pytest.raises(UnreadableInput):
            read_image(path)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(UnreadableInput, match="expected a regular file"):
            read_image(path)


def test_a_file_over_the_byte_cap_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(300 * 2**20)  # sparse: it takes no room
    with pytest.raises(InputTooLarge, match="268,435,456 bytes"):
        read_image(path)


def test_an_image_too_small_to_show_anything_is_refused():
    data = encoded(Image.new("RGB", (1, 1)))
    with pytest.raises(UnsupportedInput, match="1 x 1"):
        read_image(data)
    assert read_image(data, limits=Limits(min_side=1)).shape == (1, 1, 4)


def test_the_caps_are_options():
    data = encoded(PHOTO)
    for limits in (Limits(max_pixels=100), Limits(max_bytes=100)):
        with pytest.raises(InputTooLarge, match="raise max_"):
            read_image(data, limits=limits)


@pytest.mark.parametrize("stray", [struct.error("x"), RecursionError(), MemoryError(), KeyError(1), OSError()])
def test_whatever_a_decoder_raises_becomes_unreadable_with_its_cause(monkeypatch, stray):
    def fail(image):
        raise stray

    monkeypatch.setattr(door, "to_rgba", fail)
    with pytest.raises(UnreadableInput) as caught:
        read_image(encoded(PHOTO))
    assert caught.value.__cause__ is stray


# --- reduced scale


@pytest.mark.parametrize(
    ("form", "size", "side", "expected"),
    [
        ("PNG", (360, 240), None, (360, 240)),
        ("PNG", (360, 240), 16, (72, 48)),  # 240 / (3 x 16) = 5, which divides both
        ("PNG", (362, 240), 16, (181, 120)),  # of 2..5 only 2 divides 362
        ("PNG", (361, 240), 16, (361, 240)),
        ("PNG", (360, 240), 60, (360, 240)),
        ("JPEG", (360, 240), 16, (90, 60)),  # JPEG halves: 4 is the most below 5
        ("JPEG", (384, 384), 16, (48, 48)),
        ("JPEG", (361, 240), 16, (361, 240)),
        ("TIFF", (360, 240), 16, (72, 48)),
    ],
)
def test_reduction_keeps_three_times_the_side_and_never_a_remainder(form, size, side, expected):
    height, width = read_image(encoded(Image.new("RGB", size), form), side=side).shape[:2]
    assert (width, height) == expected


def test_a_mask_in_alpha_is_never_averaged():
    image = Image.new("RGBA", (96, 96), (200, 100, 50, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert read_image(encoded(image), side=8).shape == (96, 96, 4)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_reduction_moves_the_networks_input_by_less_than_a_third_of_a_grey_level(form):
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(40, 216, (12, 16, 3), dtype=np.uint8)).resize((1024, 768))
    noisy = np.asarray(coarse) + generator.normal(0, 8, (768, 1024, 3))
    data = encoded(noisy.clip(0, 255).astype(np.uint8), form)

    def resized(pixels):
        bands = Image.fromarray(pixels).convert("RGB").split()
        small = [band.convert("F").resize((64, 64), Image.Resampling.BILINEAR) for band in bands]
        return np.stack([np.asarray(band) for band in small])

    reduced = read_image(data, side=64)
    assert reduced.shape[0] < 768
    assert np.abs(resized(reduced) - resized(read_image(data))).mean() < 1 / 3


# --- arrays and Pillow images


def test_arrays_of_every_accepted_kind_become_rgba():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.stack([grey, grey + 1, grey + 2], axis=-1)
    opaque = np.full((8, 8), 255, np.uint8)
    np.testing.assert_array_equal(as_pixels(grey), np.stack([grey, grey, grey, opaque], axis=-1))
    np.testing.assert_array_equal(as_pixels(grey[..., None]), as_pixels(grey))
    np.testing.assert_array_equal(as_pixels(colour), np.dstack([colour, opaque]))
    np.testing.assert_array_equal(as_pixels(np.dstack([colour, grey])), np.dstack([colour, grey]))
    np.testing.assert_array_equal(as_pixels(grey.astype(">u2") * 257), as_pixels(grey))
    np.testing.assert_array_equal(as_pixels(grey > 9), as_pixels(np.where(grey > 9, opaque, 0)))
    np.testing.assert_array_equal(as_pixels(Image.fromarray(colour)), as_pixels(colour))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((8, 8), np.float32), r"float32, .*astype\(numpy.uint8\)"),
        (np.full((8, 8, 3), np.nan), "float64 with NaN"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((8, 8), object), "object"),
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((1, 8, 8, 3), np.uint8), "channels last"),
        (np.zeros((0, 8), np.uint8), "8 x 0"),
        (Image.new("F", (8, 8)), "mode F"),
        (Image.new("I", (8, 8), 70_000), "0..65535"),
        (Image.new("I", (8, 8), -1), "0..65535"),
        ("photo.png", "got str"),
    ],
)
def test_arrays_without_one_reading_are_refused_with_a_remedy(image, expected):
    with pytest.raises(UnsupportedInput, match=expected):
        as_pixels(image)


def test_arrays_are_capped_too():
    for image in (np.zeros((20, 20), np.uint8), Image.new("L", (20, 20))):
        with pytest.raises(InputTooLarge):
            as_pixels(image, limits=Limits(max_pixels=399))


# --- finding files


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.tiff", "sub/d.dcm", ".git/e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "none").mkdir()
    return tmp_path


def found(root, *patterns):
    paths = find_inputs([str(root / pattern) for pattern in patterns])
    return [path.relative_to(root).as_posix() for path in paths]


def test_inputs_are_files_folders_and_globs_each_once_in_order(tree):
    assert found(tree, ".") == ["a.JPG", "b.png", "sub/c.tiff", "sub/d.dcm"]
    assert found(tree, "sub", "b.png", "sub/c.tiff") == ["sub/c.tiff", "sub/d.dcm", "b.png"]
    assert found(tree, "*.txt") == ["notes.txt"]
    assert found(tree, "**/*.[td]*") == ["notes.txt", "sub/c.tiff", "sub/d.dcm"]


def test_a_missing_file_is_passed_on_for_the_batch_to_list(tree):
    assert found(tree, "missing.png", "b.png") == ["missing.png", "b.png"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tree):
    (tree / "x[1].png").touch()
    assert found(tree, "x[1].png") == ["x[1].png"]


@pytest.mark.parametrize("pattern", ["none", "*.bmp"])
def test_a_folder_or_glob_without_files_is_an_error_at_once(tree, pattern):
    with pytest.raises(InputError, match="found none"):
        find_inputs([str(tree / "b.png"), str(tree / pattern)])


def test_a_folder_that_cannot_be_listed_is_an_error(tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        find_inputs([str(tree)])


# --- threads and noise


def test_odd_files_read_without_a_warning_in_many_threads_at_once():
    data = odd_exif()
    expected = read_image(encoded(PHOTO, "JPEG"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            for pixels in pool.map(read_image, [data] * 64):
                np.testing.assert_array_equal(pixels, expected)
        filters = list(warnings.filters)
        read_image(data)
        assert list(warnings.filters) == filters  # added once, not with each image
    assert not heard


def small_files():
    grey16 = (PHOTO[..., 0].astype(np.uint16) * 200) + 5
    exif = Image.Exif()
    exif[0x0112] = 6
    yield from (encoded(PHOTO, "JPEG", exif=exif), encoded(PHOTO, "JPEG", progressive=True))
    yield encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG")
    yield from (encoded(PHOTO), encoded(grey16), encoded(Image.fromarray(PHOTO).quantize(8), transparency=3))
    yield from (encoded(PHOTO, "TIFF", compression=packing) for packing in ("raw", "tiff_lzw", "packbits"))
    yield encoded(grey16, "TIFF")


EDITS = st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=4)), max_size=6)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from([*small_files()]), EDITS, st.integers(0, 4000), st.sampled_from([None, 2]))
def test_a_damaged_file_reads_to_rgba_or_raises_an_input_error_and_nothing_else(data, edits, cut, side):
    damaged = bytearray(data if cut % 2 else data[: cut % len(data)])
    for position, piece in edits:
        if damaged:
            start = position % len(damaged)
            damaged[start : start + len(piece)] = piece
    try:
        pixels = read_image(bytes(damaged), side=side, limits=Limits(max_pixels=10**6))
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 4
    assert pixels.size <= 4 * 10**6
