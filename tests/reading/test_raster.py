"""JPEG, PNG and TIFF: each kind of pixel reads right or is refused, whatever the header claims."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading import raster
from leanmed.reading.images import Limits, image_size, read_image

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 16, 4), dtype=np.uint8)
FORMATS = ("JPEG", "PNG", "TIFF")


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, form, **options)
    return stream.getvalue()


def quadrants():
    """A B / C D as levels 20, 90, 160, 230 in 16 x 16 blocks, which JPEG keeps well."""
    return np.kron(np.array([[20, 90], [160, 230]], np.uint8), np.ones((16, 16), np.uint8))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *extra, rows=b""):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + png_chunk(b"IEND", b"")


def tiff(grey, tags):
    """An uncompressed TIFF of one strip, with some of its tags replaced; a tag of None is left out."""
    height, width = grey.shape
    right = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: grey.size}
    entries = sorted((tag, value) for tag, value in (right | tags).items() if value is not None)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    start = struct.pack("<2sHI", b"II", 42, 8 + grey.size) + grey.tobytes()
    return start + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_eight_bit_modes_read_as_pillow_converts_them(mode, form):
    image = Image.fromarray(COLOURS).convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(COLOURS)
    np.testing.assert_array_equal(read_image(encoded(image, form)), np.array(image.convert("RGBA")))


def test_a_transparent_palette_colour_becomes_alpha():
    image = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (8, 8)), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    pixels = read_image(encoded(image, transparency=1))
    assert pixels[0, 0].tolist() == [10, 20, 30, 255]
    assert pixels[0, 1].tolist() == [40, 50, 60, 0]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257_and_rounded(form):
    stored = np.tile(np.array([0, 128, 129, 257, 32768, 65406, 65407, 65535], np.uint16), (8, 1))
    assert read_image(encoded(stored, form))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]


def test_the_transparent_level_of_sixteen_bit_grey_becomes_alpha():
    data = encoded(np.tile(np.array([0, 300], np.uint16), (8, 8)))
    end_of_header = 8 + 25
    data = data[:end_of_header] + png_chunk(b"tRNS", struct.pack(">H", 300)) + data[end_of_header:]
    assert read_image(data)[0, :2].tolist() == [[0, 0, 0, 255], [1, 1, 1, 0]]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_red_reads_as_red(form):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(read_image(encoded(red, form))[8, 8], [255, 0, 0, 255], atol=3)


# Where the stored blocks A B / C D stand when upright, by the definitions in the EXIF standard.
UPRIGHT = {1: "ABCD", 2: "BADC", 3: "DCBA", 4: "CDAB", 5: "ACBD", 6: "CADB", 7: "DBCA", 8: "BDAC"}


@pytest.mark.parametrize("side", [None, 5])  # 5 lets 32 x 32 be halved
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once(orientation, form, side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(encoded(quadrants(), form, exif=exif), side=side)[..., 0]
    size = 32 if side is None else 16
    assert pixels.shape == (size, size)
    near, far = size // 4, 3 * size // 4
    corners = [pixels[near, near], pixels[near, far], pixels[far, near], pixels[far, far]]
    levels = dict(zip("ABCD", (20, 90, 160, 230), strict=True))
    np.testing.assert_allclose(corners, [levels[letter] for letter in UPRIGHT[orientation]], atol=3)


def test_exif_blanked_by_an_anonymiser_does_not_spoil_the_picture():
    data = encoded(quadrants(), "JPEG")
    blank = b"Exif\0\0" + bytes(40)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(blank) + 2) + blank + data[2:]
    assert read_image(data).shape == (32, 32, 4)
    assert read_image(encoded(quadrants(), "PNG", exif=blank)).shape == (32, 32, 4)


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {})]
)
def test_truncated_files_are_unreadable(form, options, keep):
    data = encoded(COLOURS[..., :3], form, **options)
    with pytest.raises(UnreadableInput):
        read_image(data[: int(len(data) * keep)])


def test_a_jpeg_copied_by_half_and_padded_with_zeros_is_unreadable():
    data = encoded(np.tile(COLOURS[..., :3], (9, 9, 1)), "JPEG")
    half = len(data) // 2
    with pytest.raises(UnreadableInput, match="truncated"):
        read_image(data[:half] + bytes(len(data) - half))


def test_what_a_telephone_appends_to_a_jpeg_is_not_read():
    data = encoded(quadrants(), "JPEG")
    film = np.random.default_rng(1).bytes(10_000) + b"\xff\xda" * 200
    np.testing.assert_array_equal(read_image(data + film), read_image(data))


def test_a_jpeg_of_countless_scans_is_refused():
    data = encoded(COLOURS[..., :3], "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(UnsupportedInput, match="scans"):
        read_image(data[:-2] + last_scan * 200 + b"\xff\xd9")


@pytest.mark.parametrize("head", [b"\xff", b"\xff\xe1\x00\x02"])
def test_a_flood_of_markers_is_given_up(head):
    with pytest.raises(UnreadableInput, match="too many parts"):
        read_image(b"\xff\xd8" + head * 250_000 + b"\xff\xd9")


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_megabytes_of_metadata_are_refused(form):
    data = encoded(COLOURS[..., :3], form)
    if form == "PNG":
        start = 8 + 25
        extra = png_chunk(b"eXIf", b"II*\0" + bytes(17 << 20))
    else:
        start = 2
        extra = (b"\xff\xe1\xff\xff" + bytes(0xFFFD)) * 300
    with pytest.raises(UnsupportedInput, match="without"):
        read_image(data[:start] + extra + data[start:])


def test_a_png_that_declares_200_megapixels_is_refused_by_its_header():
    with pytest.raises(InputTooLarge, match="200,000,000"):
        read_image(png(20_000, 10_000))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_text_that_unpacks_to_a_hundred_megabytes_is_refused(kind):
    bomb = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(100 << 20)))
    with pytest.raises(UnreadableInput, match="too large"):
        read_image(png(10, 10, bomb, rows=bytes(310)))


def test_a_png_with_more_rows_than_declared_reads_as_declared():
    assert read_image(png(10, 10, rows=bytes(31 * 100_000))).shape == (10, 10, 4)


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({273: 10**6}, UnreadableInput),  # the strip lies behind the end
        ({257: 60_000}, UnreadableInput),  # more rows than the strip holds
        ({278: 2**31 - 1, 257: 3_000_000}, UnreadableInput),
        ({256: 60_000, 257: 60_000}, InputTooLarge),
        ({322: 50_000, 323: 50_000, 324: 8, 325: 100, 273: None, 279: None}, InputTooLarge),  # one huge tile
        ({259: 7}, UnsupportedInput),  # JPEG inside
        ({258: 12}, UnsupportedInput),
        ({258: 16, 256: 8, 339: 2}, UnsupportedInput),  # signed
    ],
)
def test_a_tiff_whose_tags_lie_is_refused(tags, error):
    with pytest.raises(error):
        read_image(tiff(COLOURS[..., 0] // 2, tags))  # of 16 bits, too, none is negative


def test_a_tiff_tag_of_millions_of_values_is_refused():
    data = tiff(COLOURS[..., 0], {33_000: 0}).replace(
        struct.pack("<HHI", 33_000, 4, 1), struct.pack("<HHI", 282, 5, 10**7)
    )
    with pytest.raises(UnsupportedInput, match="values in TIFF tags"):
        read_image(data)


def test_a_lie_about_the_bytes_in_a_strip_does_no_harm():
    data = tiff(COLOURS[..., 0], {279: 2**31 - 1})
    np.testing.assert_array_equal(read_image(data)[..., 0], COLOURS[..., 0])


@pytest.mark.parametrize(
    "values", [np.full((8, 8), np.nan, np.float32), np.zeros((8, 8), np.float32), np.zeros((8, 8), np.int32)]
)
def test_tiffs_without_a_known_range_are_refused(values):
    with pytest.raises(UnsupportedInput, match=r"0\.\.255"):
        read_image(encoded(values, "TIFF"))


def test_sixteen_bit_tiff_with_white_at_zero_is_refused():
    with pytest.raises(UnsupportedInput, match="white at 0"):
        read_image(encoded(np.zeros((8, 8), np.uint16), "TIFF", tiffinfo={262: 0}))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_several_frames_or_pages_are_refused(form):
    second = Image.fromarray(255 - COLOURS)
    with pytest.raises(UnsupportedInput, match="several"):
        read_image(encoded(COLOURS, form, save_all=True, append_images=[second]))


def test_other_formats_are_refused_by_name():
    with pytest.raises(UnsupportedInput, match="got GIF; save it as JPEG or PNG"):
        read_image(encoded(COLOURS[..., :3], "GIF"))


def test_bmp_and_webp_are_read_as_they_are():
    for form, options in (("BMP", {}), ("WEBP", {"lossless": True})):
        np.testing.assert_array_equal(read_image(encoded(COLOURS[..., :3], form, **options))[..., :3], COLOURS[..., :3])


@pytest.mark.parametrize("form", ["BMP", "WEBP"])
def test_a_truncated_bmp_or_webp_is_unreadable(form):
    data = encoded(COLOURS[..., :3], form)
    with pytest.raises(UnreadableInput):
        read_image(data[: len(data) * 2 // 3])


def test_a_webp_of_several_frames_is_refused():
    second = Image.fromarray(255 - COLOURS)
    with pytest.raises(UnsupportedInput, match="expected one picture, got a film"):
        read_image(encoded(COLOURS, "WEBP", save_all=True, append_images=[second]))


def heic(pixels, **settings) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=95, **settings)
    return file.getvalue()


def test_a_telephones_heic_is_read():
    wide = np.zeros((48, 64, 3), np.uint8)
    wide[:, :32], wide[:24, 32:] = (200, 30, 60), (20, 200, 90)
    found = read_image(heic(wide))
    assert found.shape == (48, 64, 4)
    assert np.abs(found[..., :3].astype(int) - wide).mean() < 4
    assert (found[..., 3] == 255).all()
    assert image_size(heic(wide)) == (64, 48)


def test_a_heic_is_upright_whatever_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((48, 64, 3), np.uint8)
    wide[:24, :24] = 255
    data = heic(wide, exif=exif.tobytes())
    assert read_image(data).shape[:2] == image_size(data)[::-1] == (64, 48)
    assert (read_image(data)[:20, -20:, :3] > 200).all()  # what was stored at the left is at the top


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_heic_that_is_cut_short_is_unreadable(share):
    data = heic(COLOURS[..., :3].repeat(8, 0).repeat(8, 1))
    with pytest.raises(UnreadableInput):
        read_image(data[: int(len(data) * share)])


def test_a_huge_heic_is_refused_by_its_header():
    with pytest.raises(InputTooLarge, match="expected at most 1,000 pixels, got 64 x 48"):
        read_image(heic(np.zeros((48, 64, 3), np.uint8)), limits=Limits(max_pixels=1000))


def test_without_its_extra_a_heic_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(raster, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedInput, match=r"got HEIC; install .* 'leanmed\[heic\]'"):
        read_image(b"\0\0\0\x18ftypheic" + bytes(100))


def test_pillows_leniency_towards_truncation_must_be_off(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UnreadableInput, match="LOAD_TRUNCATED_IMAGES"):
        read_image(encoded(COLOURS))
