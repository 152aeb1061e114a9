"""DICOM: greys and colours by the standard's display chain, and refusal by name of what is not read."""

from __future__ import annotations

import io
import struct
import sys
import tracemalloc
import zlib
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from leanmed.errors import InputError, InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading import dicom as reader
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


def lookup(entries, first, bits, count=None):
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) if count is None else count, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = np.asarray(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


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


def display(stored, **elements):
    """What the field's reference makes of stored values: pydicom's modality and VOI, brought to 0..255 by its range."""
    data = dcmread(io.BytesIO(dicom(stored, **elements)))
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data).astype(float)
    if data.get("VOILUTSequence"):
        low, high = 0, 2 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif data.get("ModalityLUTSequence"):
        low, high = 0, 2 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        ends = np.array([0, 2**data.BitsStored - 1]) - (2 ** (data.BitsStored - 1) if data.PixelRepresentation else 0)
        low, high = ends * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
    shown = np.clip((shown - low) / (high - low), 0, 1)
    return 255 * (1 - shown if data.PhotometricInterpretation == "MONOCHROME1" else shown)


WIDE = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
SIGNED = (WIDE.astype(np.int16) - 2048).astype(np.int16)
HOUNSFIELD = {"RescaleSlope": 1, "RescaleIntercept": -1024}
HALVED = {"RescaleSlope": 0.5, "RescaleIntercept": 0}


@pytest.mark.parametrize(
    ("stored", "elements"),
    [
        (WIDE, {}),
        (SIGNED, {}),
        (WIDE, {"PhotometricInterpretation": "MONOCHROME1"}),
        (WIDE, {"WindowCenter": 2000, "WindowWidth": 1000}),
        (WIDE, {"WindowCenter": [2000, 300], "WindowWidth": [1000, 20]}),
        (WIDE, {"WindowCenter": 40, "WindowWidth": 400, **HOUNSFIELD}),
        (SIGNED, {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT", **HOUNSFIELD}),
        (WIDE, {"WindowCenter": 2000, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}),
        (WIDE, {"WindowCenter": 2, "WindowWidth": 9, "VOILUTFunction": "SIGMOID", **HALVED}),
        (WIDE, {"VOILUTSequence": Sequence([lookup(np.arange(4096) ** 2 // 4096, 0, 12)])}),
        (WIDE, {"VOILUTSequence": Sequence([lookup(np.arange(0, 65536, 64), 1000, 16)])}),
        (SIGNED, {"VOILUTSequence": Sequence([lookup(np.arange(0, 65536, 64), -500, 16)])}),
        (WIDE, {"VOILUTSequence": Sequence([lookup(range(4096), 0, 12)]), "WindowCenter": 5, "WindowWidth": 9}),
        (WIDE, {"ModalityLUTSequence": Sequence([lookup(np.arange(4095, -1, -1), 0, 16)]), "WindowCenter": 2000,
                "WindowWidth": 1000}),
    ],
)  # fmt: skip
def test_greys_are_those_of_the_reference_reader(stored, elements):
    wanted = display(stored, BitsStored=12, **elements)
    np.testing.assert_allclose(grey(dicom(stored, BitsStored=12, **elements)), wanted, atol=0.51)


def test_a_table_of_bytes_packed_without_gaps_is_read():
    item = lookup([0] * 128, 0, 8, count=256)
    item.LUTData = bytes(range(255, -1, -1))
    np.testing.assert_array_equal(grey(dicom(RAMP, VOILUTSequence=Sequence([item]))), 255 - RAMP)


def packed(stored, syntax, plugin, **elements):
    """The same frame packed by pydicom, or by a codec of its own choice."""
    data = dcmread(io.BytesIO(dicom(stored, **elements)))
    data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize(("stored", "bits"), [(RAMP, 8), (WIDE, 12), (SIGNED, 12), (RGB, 8)])
def test_rle_reads_as_the_same_frame_uncompressed(stored, bits):
    plain, rle = dicom(stored, BitsStored=bits), packed(stored, RLELossless, "pydicom", BitsStored=bits)
    np.testing.assert_array_equal(read_image(rle), read_image(plain))


def test_rle_of_ybr_becomes_rgb():
    ybr = np.array(Image.fromarray(RGB).convert("YCbCr"))
    data = packed(ybr, RLELossless, "pydicom", PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read_image(data)[..., :3], RGB, atol=3)


def rle(*segments):
    starts, body = [], b""
    for segment in segments:
        starts.append(64 + len(body))
        body += segment
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + body


def test_rle_unfolds_no_further_than_the_pixels_declared():
    """A thousand times as many runs as the picture holds: the rest is never unpacked."""
    frame = rle(b"\x81\x07" * 2000)
    tracemalloc.start()
    pixels = grey(dicom(RAMP, RLELossless, PixelData=encapsulate([frame])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (pixels == 7).all()
    assert peak < 150_000  # 2000 runs of 128 bytes would be more


@pytest.mark.parametrize(
    "frame", [rle(b"\x81\x07"), rle(b"\x81\x07" * 2, b"\x81\x07" * 2), rle(b"\x80" * 500), b"short"]
)
def test_rle_that_is_short_or_of_another_kind_is_unreadable(frame):
    with pytest.raises(UnreadableInput):
        read_image(dicom(RAMP, RLELossless, PixelData=encapsulate([frame])))


def j2k(image, **options):
    """A codestream without the boxes of a JP2 file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", no_jp2=True, irreversible=False, **options)
    return stream.getvalue()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEG2000])
def test_jpeg_2000_reads_as_stored(syntax):
    np.testing.assert_array_equal(grey(dicom(RAMP, syntax, PixelData=encapsulate([j2k(RAMP)]))), RAMP)
    colour = dicom(RGB, syntax, PixelData=encapsulate([j2k(RGB, mct=1)]), PhotometricInterpretation="YBR_RCT")
    np.testing.assert_array_equal(read_image(colour)[..., :3], RGB)
    deep = dicom(WIDE * 16, syntax, PixelData=encapsulate([j2k(WIDE * 16)]))
    np.testing.assert_array_equal(read_image(deep), read_image(dicom(WIDE * 16)))


@pytest.mark.parametrize("size", [(64, 64), (9000, 9000)])
def test_a_jpeg_2000_frame_of_another_size_than_declared_is_refused_before_it_is_decoded(size, monkeypatch):
    frame = bytearray(j2k(RAMP))
    frame[8:16] = struct.pack(">II", *size)
    monkeypatch.setattr(reader, "pixel_array", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UnreadableInput, match=r"in the packed frame|tiles"):
        read_image(dicom(RAMP, JPEG2000Lossless, PixelData=encapsulate([bytes(frame)])))


def test_a_jpeg_2000_frame_of_countless_tiles_is_refused():
    frame = bytearray(j2k(RAMP))
    frame[8:16], frame[24:32] = struct.pack(">II", 4000, 4000), struct.pack(">II", 1, 1)
    with pytest.raises(UnreadableInput, match="tiles"):
        read_image(dicom(RAMP, JPEG2000Lossless, PixelData=encapsulate([bytes(frame)])))


# The smallest of each kind: 8 x 8 pixels, all of them 130 (JPEG Lossless and JPEG-LS as their standards put it).
def lossless_jpeg(value=130, size=8):
    """JPEG Lossless, first-order prediction: the first difference from 128 is coded, then 0 for every other pixel."""
    table = bytes([0, 1, 1] + [0] * 14) + bytes([0, 2])  # codes 0 -> no difference, 10 -> 2 bits of difference
    start = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 8, size, size, 1) + b"\x01\x11\x00"
    tables = b"\xff\xc4" + struct.pack(">HB", 2 + 1 + 16 + 2, 0) + table[1:]
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    bits = "10" + format(value - 128, "02b") + "0" * (size * size - 1)
    bits += "1" * (-len(bits) % 8)
    return start + tables + scan + int(bits, 2).to_bytes(len(bits) // 8) + b"\xff\xd9"


def test_lossless_jpeg_reads_as_stored_with_the_extra():
    pytest.importorskip("imagecodecs")
    flat = np.full((8, 8), 130, np.uint8)
    data = dicom(flat, JPEGLosslessSV1, PixelData=encapsulate([lossless_jpeg()]))
    np.testing.assert_array_equal(grey(data), flat)


PACKINGS = {
    JPEGLosslessSV1: lambda codec, values, bits: codec.jpeg8_encode(values, lossless=True, bitspersample=bits),
    JPEGLSLossless: lambda codec, values, bits: codec.jpegls_encode(values),
    JPEGExtended12Bit: lambda codec, values, bits: codec.jpeg8_encode(values, level=100, bitspersample=bits),
}


@pytest.mark.parametrize("syntax", PACKINGS)
@pytest.mark.parametrize("stored", [WIDE, SIGNED])
def test_twelve_bits_packed_by_other_jpegs_read_as_the_same_frame_uncompressed(syntax, stored):
    codec = pytest.importorskip("imagecodecs")
    frame = PACKINGS[syntax](codec, stored.view(np.uint16) & 0xFFF, 12)  # twelve bits, signed or not
    data = dicom(stored, syntax, BitsStored=12, PixelData=encapsulate([frame]))
    np.testing.assert_allclose(grey(data), grey(dicom(stored, BitsStored=12)), atol=1)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_colours_packed_by_other_jpegs_read_as_stored(syntax):
    codec = pytest.importorskip("imagecodecs")
    data = dicom(RGB, syntax, PixelData=encapsulate([PACKINGS[syntax](codec, RGB, 8)]))
    np.testing.assert_array_equal(read_image(data)[..., :3], RGB)


@pytest.mark.parametrize("syntax", [*PACKINGS, JPEG2000Lossless, RLELossless])
def test_a_damaged_frame_reads_or_is_refused_and_nothing_is_printed(syntax, capfd):
    if syntax in PACKINGS:
        frame = PACKINGS[syntax](pytest.importorskip("imagecodecs"), RAMP, 8)
    else:
        frame = j2k(RAMP) if syntax == JPEG2000Lossless else rle(b"\x81\x07" * 2)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(frame)
        for place in rng.integers(2, len(frame), 3):
            damaged[place] = rng.integers(256)
        with suppress(InputError):
            assert read_image(dicom(RAMP, syntax, PixelData=encapsulate([bytes(damaged)]))).shape == (16, 16, 4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEGExtended12Bit])
def test_a_lossless_frame_of_another_size_than_declared_is_refused_before_it_is_decoded(syntax, monkeypatch):
    monkeypatch.setattr(reader, "find_spec", lambda name: "there")
    codec = SimpleNamespace(**dict.fromkeys(("jpeg8_decode", "jpegls_decode"), lambda *_: pytest.fail("decoded")))
    monkeypatch.setitem(sys.modules, "imagecodecs", codec)
    with pytest.raises(UnreadableInput, match="in the packed frame"):
        read_image(dicom(RAMP, syntax, PixelData=encapsulate([lossless_jpeg(size=9000)])))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_file_without_preamble_and_file_meta_is_known_by_its_first_elements(syntax):
    bare = DicomBytesIO()
    bare.is_little_endian, bare.is_implicit_VR = True, syntax.is_implicit_VR
    write_dataset(bare, dcmread(io.BytesIO(dicom(RAMP, syntax))))
    np.testing.assert_array_equal(grey(bare.getvalue()), RAMP)


@pytest.mark.parametrize(
    "content", [b"\x08\0\x05\0" + bytes(500), b"\x08\0\x16\0\x0c\0\0\x001.2.840.9999", RAMP.tobytes()]
)
def test_bytes_that_only_begin_like_dicom_are_none(content, tmp_path):
    with pytest.raises(UnreadableInput, match="expected JPEG, PNG"):
        read_image(content)
    (tmp_path / "x.dcm").write_bytes(content)
    with pytest.raises(UnreadableInput, match="expected DICOM, got a file that begins with"):
        read_image(tmp_path / "x.dcm")


def test_packed_pixels_without_a_transfer_syntax_are_refused():
    bare = DicomBytesIO()
    bare.is_little_endian, bare.is_implicit_VR = True, False
    write_dataset(bare, dcmread(io.BytesIO(dicom(RGB, JPEG2000Lossless, PixelData=encapsulate([j2k(RGB)])))))
    with pytest.raises(UnreadableInput, match="packed"):
        read_image(bare.getvalue())


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


@pytest.mark.parametrize("syntax", [HTJ2KLossless, MPEG2MPML])
def test_other_transfer_syntaxes_are_refused_by_name(syntax):
    with pytest.raises(UnsupportedInput, match=syntax.name.split(" ")[0]):
        read_image(dicom(RGB, syntax, PixelData=encapsulate([b"frame"])))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEGExtended12Bit])
def test_a_packing_that_needs_the_extra_is_refused_with_its_name(syntax, monkeypatch):
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedInput, match=r"pip install 'leanmed\[dicom\]'"):
        read_image(dicom(RGB, syntax, PixelData=encapsulate([b"frame"])))


def test_a_deflated_file_reads_as_stored_and_one_that_unfolds_too_far_is_refused():
    np.testing.assert_array_equal(grey(dicom(RAMP, DeflatedExplicitVRLittleEndian)), RAMP)
    bomb = zlib.compress(bytes(64 << 20))[2:-4]
    with pytest.raises(InputTooLarge, match="when inflated"):
        read_image(header(DeflatedExplicitVRLittleEndian) + bomb, limits=Limits(max_bytes=1 << 20))


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
        ({"ModalityLUTSequence": Sequence([Dataset()])}, UnreadableInput),  # without its table
        ({"VOILUTSequence": Sequence([lookup([0, 9], 0, 8, count=5)])}, UnsupportedInput),  # an entry short
        ({"VOILUTSequence": Sequence([lookup([0, 9], 0, 24)])}, UnsupportedInput),
        ({"WindowCenter": 1, "WindowWidth": 2, "VOILUTFunction": "CUBIC"}, UnsupportedInput),
        ({"SamplesPerPixel": 3}, UnreadableInput),
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
