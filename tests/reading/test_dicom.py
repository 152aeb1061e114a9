"""DICOM: greys and colours by the standard's display chain, and refusal by name of what is not read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from leanmed.errors import InputError, InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading.images import Limits, read_image

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def dicom(pixels, syntax=ExplicitVRLittleEndian, *, leave_out=(), **elements):
    """A DICOM file of one frame: uint8, uint16 or int16 of (h, w) or (h, w, 3), or the bytes of a JPEG."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    encoding = syntax.is_implicit_VR, syntax.is_little_endian
    data = FileDataset(None, {}, bytes(128), meta, *encoding)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    data.Rows, data.Columns, data.PixelRepresentation = 16, 16, 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    if isinstance(pixels, np.ndarray):
        data.Rows, data.Columns = pixels.shape[:2]
        data.PixelRepresentation = int(pixels.dtype.kind == "i")
        data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    if not isinstance(pixels, np.ndarray) or pixels.ndim == 3:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = pixels.tobytes() if isinstance(pixels, np.ndarray) else encapsulate([pixels])
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.HighBit = data.BitsStored - 1
    for keyword in leave_out:
        delattr(data, keyword)
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


def header(syntax):
    """Preamble and file meta group alone, to put a hostile body behind."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    write_file_meta_info(stream, meta, enforce_standard=False)
    return bytes(128) + b"DICM" + stream.getvalue()


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def grey(data):
    pixels = read_image(data)
    assert (pixels[..., :1] == pixels[..., :3]).all()
    assert (pixels[..., 3] == 255).all()
    return pixels[..., 0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_eight_bit_grey_reads_as_stored(syntax):
    np.testing.assert_array_equal(grey(dicom(RAMP, syntax)), RAMP)


def test_monochrome1_is_inverted():
    np.testing.assert_array_equal(grey(dicom(RAMP, PhotometricInterpretation="MONOCHROME1")), 255 - RAMP)


def test_without_a_window_the_range_of_the_stored_bits_is_shown_not_that_of_the_image():
    stored = np.full((8, 8), 1000, np.uint16)
    assert (grey(dicom(stored, BitsStored=12)) == round(1000 / 4095 * 255)).all()


def test_signed_greys_start_from_their_least_value():
    stored = np.tile(np.array([-2048, 0, 2047, 2047], np.int16), (8, 2))
    assert grey(dicom(stored, BitsStored=12))[0, :4].tolist() == [0, 128, 255, 255]


def test_a_linear_window_follows_the_standards_formula():
    """PS3.3 C.11.2.1.2.1, centre 40, width 400: y = ((x - 39.5) / 399 + 0.5) 255 of x = stored - 1024."""
    stored = np.tile(np.array([864, 865, 1064, 1263, 1264, 0, 2000, 1024], np.int16), (8, 1))
    pixels = grey(dicom(stored, WindowCenter=[40, 500], WindowWidth=[400, 9], RescaleSlope=1, RescaleIntercept=-1024))
    # -160 and below are black, 239 and above white, 40 is just above and 0 well below the middle.
    assert pixels[0].tolist() == [0, 1, 128, 255, 255, 0, 255, 102]


def test_an_exact_linear_window_has_no_half_pixel_offset():
    stored = np.tile(np.array([0, 64, 128, 255], np.uint8), (8, 2))
    pixels = grey(dicom(stored, WindowCenter=128, WindowWidth=256, VOILUTFunction="LINEAR_EXACT"))
    assert pixels[0, :4].tolist() == [0, 64, 128, 254]


def test_a_window_of_width_one_is_a_threshold():
    pixels = grey(dicom(RAMP, WindowCenter=100, WindowWidth=1))
    np.testing.assert_array_equal(pixels, np.where(RAMP > 99, 255, 0))


def test_a_negative_rescale_slope_turns_black_to_white():
    np.testing.assert_array_equal(grey(dicom(RAMP, RescaleSlope=-1, RescaleIntercept=0)), 255 - RAMP)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_reads_as_stored(planar):
    stored = RGB if planar == 0 else np.moveaxis(RGB, 2, 0)
    data = dicom(RGB, PlanarConfiguration=planar, PixelData=stored.tobytes())
    np.testing.assert_array_equal(read_image(data)[..., :3], RGB)


def test_ybr_full_becomes_rgb():
    ybr = np.array(Image.fromarray(RGB).convert("YCbCr"))
    np.testing.assert_allclose(
        read_image(dicom(ybr, PhotometricInterpretation="YBR_FULL"))[..., :3],
        RGB,
        atol=3,  # rounded there and back
    )


@pytest.mark.parametrize(("bits", "kept_in"), [(8, 8), (8, 16), (16, 16)])
def test_palette_colour_is_looked_up(bits, kept_in):
    values = np.arange(256, dtype=np.uint16)
    tables = {"Red": values, "Green": 255 - values, "Blue": values // 2}
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in tables.items():
        stored = (table if bits == 8 else table * 257).astype(f"uint{kept_in}")
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        elements[f"{name}PaletteColorLookupTableData"] = stored.tobytes()
    expected = np.stack([tables[name][RAMP] for name in tables], axis=-1)
    np.testing.assert_array_equal(read_image(dicom(RAMP, **elements))[..., :3], expected)


def test_a_jpeg_frame_reads_as_the_same_jpeg_alone():
    smooth = Image.fromarray(RGB).resize((64, 48))
    frame = jpeg(smooth)
    data = dicom(frame, JPEGBaseline8Bit, Rows=48, Columns=64, PhotometricInterpretation="YBR_FULL_422")
    np.testing.assert_array_equal(read_image(data), read_image(frame))


def test_a_jpeg_frame_that_dicom_calls_rgb_is_not_converted_again():
    flat = Image.fromarray(np.full((16, 16, 3), (200, 40, 90), np.uint8))
    frame = jpeg(flat, keep_rgb=True)
    frame = frame.replace(b"\xff\xee\x00\x0eAdobe", b"\xff\xef\x00\x0eOther")  # Adobe's marker says RGB: hide it
    for old, new in ((b"R", b"\x01"), (b"G", b"\x02"), (b"B", b"\x03")):  # as do the names of the components
        frame = frame.replace(old + b"\x11\x00", new + b"\x11\x00").replace(old + b"\x00", new + b"\x00")
    pixels = read_image(dicom(frame, JPEGBaseline8Bit))
    np.testing.assert_allclose(pixels[8, 8, :3], (200, 40, 90), atol=3)


def test_the_dcm_suffix_is_enough(tmp_path):
    path = tmp_path / "no-preamble.DCM"
    path.write_bytes(dicom(RAMP)[132:])
    np.testing.assert_array_equal(read_image(path)[..., 0], RAMP)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, DeflatedExplicitVRLittleEndian])
def test_other_transfer_syntaxes_are_refused_by_name_before_anything_unfolds(syntax):
    bomb = zlib.compress(bytes(64 << 20))[2:-4]
    with pytest.raises(UnsupportedInput, match=syntax.name.split(" ")[0]):
        read_image(header(syntax) + bomb)


def test_an_unknown_transfer_syntax_is_refused_by_its_number():
    with pytest.raises(UnsupportedInput, match=r"1\.2\.840\.10008\.1\.2\.9"):
        read_image(header("1.2.840.10008.1.2.9"))


@pytest.mark.parametrize(
    ("elements", "error"),
    [
        ({"NumberOfFrames": 2}, UnsupportedInput),
        ({"Rows": 20_000, "Columns": 20_000}, InputTooLarge),
        ({"Rows": 4}, UnsupportedInput),
        ({"Rows": 32}, UnreadableInput),  # less pixel data than declared
        ({"leave_out": ["PixelData"]}, UnreadableInput),
        ({"leave_out": ["Rows"]}, UnreadableInput),
        ({"PhotometricInterpretation": "HSV"}, UnsupportedInput),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedInput),
        ({"BitsAllocated": 32, "BitsStored": 32}, UnsupportedInput),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, UnsupportedInput),
        ({"VOILUTSequence": Sequence([Dataset()])}, UnsupportedInput),
        ({"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "SIGMOID"}, UnsupportedInput),
        ({"WindowCenter": 1, "WindowWidth": -2}, UnsupportedInput),
        ({"RescaleSlope": "1e30"}, UnsupportedInput),
    ],
)
def test_what_has_no_single_right_reading_is_refused(elements, error):
    with pytest.raises(error):
        read_image(dicom(RAMP, **elements))


@pytest.mark.parametrize("size", [(64, 64), (9000, 9000)])
def test_a_jpeg_frame_of_another_size_than_declared_is_refused(size):
    frame = jpeg(Image.new("RGB", size))
    with pytest.raises((UnreadableInput, InputTooLarge)):
        read_image(dicom(frame, JPEGBaseline8Bit))


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_truncated_files_are_unreadable(kept):
    data = dicom(RAMP)
    with pytest.raises(UnreadableInput):
        read_image(data[: int(len(data) * kept)])


UNDEFINED_SEQUENCE = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
UNDEFINED_ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"


def test_deeply_nested_sequences_are_unreadable():
    body = (UNDEFINED_SEQUENCE + UNDEFINED_ITEM) * 5000
    with pytest.raises(UnreadableInput):
        read_image(header(ExplicitVRLittleEndian) + body)


def test_a_flood_of_elements_is_given_up():
    tags = struct.Struct("<HH2sH")
    flood = b"".join(tags.pack(9 + 2 * (i >> 16), i & 0xFFFF, b"LO", 0) for i in range(250_000))
    with pytest.raises(UnreadableInput, match="too many parts"):
        read_image(header(ExplicitVRLittleEndian) + UNDEFINED_SEQUENCE + UNDEFINED_ITEM + flood)


def test_the_cap_on_pixels_can_be_moved():
    with pytest.raises(InputTooLarge):
        read_image(dicom(RAMP), limits=Limits(max_pixels=255))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.sampled_from([dicom(RAMP), dicom(RAMP.astype(np.int16), BitsStored=12, WindowCenter=9, WindowWidth=9)]),
    st.lists(st.tuples(st.integers(132, 800), st.binary(min_size=1, max_size=4)), max_size=4),
    st.integers(140, 1600),
)
def test_a_damaged_file_reads_to_rgba_or_raises_an_input_error_and_nothing_else(data, edits, end):
    damaged = bytearray(data[:end])
    for start, piece in edits:
        damaged[start : start + len(piece)] = piece
    try:
        pixels = read_image(bytes(damaged))
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 4
