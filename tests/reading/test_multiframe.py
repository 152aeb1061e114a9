"""Enhanced CT and MR: one object with a frame per slice reads as the series of classic slices that it is made of."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.phantoms.scans import AXIAL, write_enhanced, write_series
from leanmed.reading.ct import Grid
from leanmed.reading.images import read_image
from leanmed.reading.mr import open_mr
from leanmed.reading.multiframe import as_file, frames_in, one_frame
from leanmed.reading.raster import DEFAULT_LIMITS, Limits
from leanmed.reading.volume import is_enhanced, is_scan, open_volume

FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def grid(direction: Any = AXIAL) -> Grid:
    return Grid((5, 12, 14), (0.7, 0.9, 2.5), (-170.5, 30.25, -301.0), direction)


@pytest.fixture
def stored() -> NDArray[np.int16]:
    z, y, x = np.indices((5, 12, 14))
    return (100 * z + y - 3 * x).astype(np.int16)


@pytest.fixture
def enhanced(tmp_path: Path, stored: NDArray[np.int16]) -> Path:
    path = tmp_path / "whole.dcm"
    write_enhanced(path, stored, grid())
    return path


def edit(path: Path, **changes: Any) -> None:
    dataset = dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


@pytest.mark.parametrize("direction", [AXIAL, FLIPPED])
def test_an_enhanced_object_reads_as_the_classic_series(
    tmp_path: Path, stored: NDArray[np.int16], direction: Any
) -> None:
    (tmp_path / "classic").mkdir()
    write_series(tmp_path / "classic", stored, grid(direction))
    write_enhanced(tmp_path / "whole.dcm", stored, grid(direction))
    classic, whole = open_volume(tmp_path / "classic"), open_volume(tmp_path / "whole.dcm")
    assert whole.grid == classic.grid
    assert np.array_equal(whole.voxels(0, 5), stored)
    assert np.array_equal(whole.voxels(2, 4), classic.voxels(2, 4))
    assert whole.frames == (4, 3, 2, 1, 0), "the last slice is the first frame"
    assert classic.frames == (0, 0, 0, 0, 0)
    assert set(whole.files) == {tmp_path / "whole.dcm"}


def test_mr_is_read_too_from_the_file_and_from_its_folder(tmp_path: Path, stored: NDArray[np.int16]) -> None:
    (tmp_path / "series").mkdir()
    path = tmp_path / "series" / "whole.dcm"
    write_enhanced(path, stored, grid(), "MR")
    for source in (path, path.parent):
        assert np.array_equal(open_mr(source).voxels(0, 5), stored)


def test_it_is_taken_for_a_scan_and_a_classic_slice_is_not(tmp_path: Path, enhanced: Path) -> None:
    classic = write_series(tmp_path, np.zeros((2, 12, 14), np.int16), Grid((2, 12, 14), (1, 1, 1), (0, 0, 0), AXIAL))
    assert is_enhanced(enhanced)
    assert is_scan(enhanced)
    assert not is_scan(classic[0])
    edit(enhanced, Modality="US")
    assert not is_scan(enhanced), "a film of ultrasound is no scan"
    with pytest.raises(UnsupportedInput, match=r"expected one frame, got 5; .* enhanced CT or MR"):
        read_image(enhanced)


PACKINGS = {
    JPEGLosslessSV1: lambda values: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=16),
    JPEGLSLossless: lambda values: imagecodecs.jpegls_encode(values),
    JPEG2000Lossless: lambda values: imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k", reversible=True),
}


@pytest.mark.parametrize("syntax", [*PACKINGS, RLELossless])
def test_every_frame_is_unpacked(enhanced: Path, stored: NDArray[np.int16], syntax: Any) -> None:
    dataset = dcmread(enhanced)
    if syntax == RLELossless:
        dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    else:
        frames = (stored[::-1] + 1024).astype(np.uint16)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelRepresentation = 0
        dataset.PixelData = encapsulate([PACKINGS[syntax](frame) for frame in frames])
    dataset.save_as(enhanced)
    assert np.array_equal(open_volume(enhanced).voxels(0, 5), stored)


def test_frames_without_a_group_each_are_refused(enhanced: Path) -> None:
    edit(enhanced, NumberOfFrames=4)
    with pytest.raises(UnreadableInput, match="a functional group for each of 4 frames, got 5"):
        open_volume(enhanced)


def test_pixels_that_are_cut_off_are_refused(enhanced: Path) -> None:
    edit(enhanced, PixelData=dcmread(enhanced).PixelData[:-400])
    with pytest.raises(UnreadableInput, match=r"expected 336 bytes of pixels in frame 4, got 272"):
        open_volume(enhanced)


def test_a_frame_that_lies_where_another_lies_is_refused_by_its_number(enhanced: Path) -> None:
    dataset = dcmread(enhanced)
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    dataset.save_as(enhanced)
    with pytest.raises(UnsupportedInput, match=r"whole.dcm, frame 1 and whole.dcm, frame 2 lie in one place"):
        open_volume(enhanced)


def test_frames_without_positions_are_no_scan(enhanced: Path) -> None:
    dataset = dcmread(enhanced)
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(enhanced)
    with pytest.raises(UnreadableInput, match="expected ImagePositionPatient"):
        open_volume(enhanced)


def test_a_count_of_frames_beyond_reason_is_refused_before_any_is_made() -> None:
    dataset = Dataset()
    dataset.NumberOfFrames = 2**31 - 1
    with pytest.raises(UnsupportedInput, match="expected 1 to 5000 frames, got 2147483647"):
        frames_in(dataset)


def test_the_cap_on_a_slice_holds_for_a_frame(enhanced: Path) -> None:
    with pytest.raises(InputTooLarge):
        open_volume(enhanced, Limits(max_pixels=100, min_side=2))


def test_a_frame_stands_alone_as_a_file_with_its_window(enhanced: Path, stored: NDArray[np.int16]) -> None:
    dataset = dcmread(enhanced)
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 200, 400
    dataset.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [window]
    single = dcmread(io.BytesIO(as_file(one_frame(dataset, 1))))
    assert (single.WindowCenter, single.ImagePositionPatient[2]) == (200, -301.0 + 3 * 2.5)
    assert "PerFrameFunctionalGroupsSequence" not in single
    shown = read_image(as_file(single))[..., 0]
    wanted = np.clip((stored[3] - 199.5) / 399 + 0.5, 0, 1) * 255
    assert np.abs(shown - wanted).max() <= 0.51
    assert DEFAULT_LIMITS.max_pixels > shown.size
