"""Values that fill little of their bits are told of, once for a data set."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from typer.testing import CliRunner

from leanmed.cli import app
from leanmed.reading.greys import StoredRange, range_remarks, stored_range

TWELVE = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)


def encoded(stored, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(stored).save(stream, form)
    return stream.getvalue()


def colour_png(sample):
    """8 x 8 pixels of 16-bit red, green and blue, all of one value, which Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + struct.pack(">H", sample) * 24) * 8
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def dicom(stored, **elements):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(None, {}, bytes(128), meta, False, True)
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.PixelRepresentation, data.PixelData = int(stored.dtype.kind == "i"), stored.tobytes()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    data.HighBit = data.BitsStored - 1
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "expected", "narrow"),
    [
        (encoded(TWELVE), (0, 4095, 0, 65535), True),
        (encoded(TWELVE, "TIFF"), (0, 4095, 0, 65535), True),
        (encoded(TWELVE * 4), (0, 16380, 0, 65535), True),  # 14 bits
        (encoded(TWELVE * 16), (0, 65520, 0, 65535), False),
        (encoded(np.full((8, 8), 65535, np.uint16)), (65535, 65535, 0, 65535), False),  # all white
        (colour_png(4095), (4095, 4095, 0, 65535), True),
        (dicom(TWELVE), (0, 4095, 0, 65535), True),
        (dicom(TWELVE, BitsStored=12), (0, 4095, 0, 4095), False),
        (dicom(TWELVE.astype(np.int16) - 1024), (-1024, 3071, -32768, 32767), True),
    ],
)
def test_the_range_is_that_of_the_values_in_the_range_of_their_bits(data, expected, narrow):
    found = stored_range(data)
    assert found == StoredRange(*expected)
    assert found.is_narrow == narrow


@pytest.mark.parametrize(
    "data",
    [
        encoded((TWELVE // 16).astype(np.uint8)),
        encoded((TWELVE // 16).astype(np.uint8), "JPEG"),
        encoded((TWELVE // 16).astype(np.uint8), "TIFF"),
        dicom(TWELVE, WindowCenter=2048, WindowWidth=4096),
        b"no image",
    ],
)
def test_eight_bits_and_windows_have_no_range_to_tell_of(data):
    assert stored_range(data) is None


def test_a_data_set_gets_one_sentence_with_the_range_over_all_its_images(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(TWELVE // (number + 1)))
    (tmp_path / "3.png").write_bytes(encoded(TWELVE * 16))
    (tmp_path / "4.png").write_bytes(encoded(TWELVE)[:60])  # damaged: others tell of it
    (tmp_path / "5.mhd").write_text("a scan")
    (remark,) = range_remarks(sorted(tmp_path.iterdir()))
    assert remark.startswith("3 of 6 images hold values from 0 to 4095 in bits for 0 to 65535, and look nearly black")


def test_images_that_fill_their_bits_get_no_remark(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(TWELVE * 16))
    assert range_remarks([tmp_path / "a.png", tmp_path / "missing.png"]) == []


def test_predict_says_what_looks_nearly_black_beside_its_answers(tiny_artifact, tmp_path):
    Image.fromarray(np.tile(TWELVE, (8, 8))).save(tmp_path / "dark.png")
    arguments = ["predict", str(tiny_artifact), str(tmp_path / "dark.png"), "--out", str(tmp_path / "answers.jsonl")]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0
    assert "1 of 1 images hold values from 0 to 4095 in bits for 0 to 65535" in said.output
