"""NIfTI headers: where a scan lies when its two forms disagree, beside SimpleITK; and what is refused."""

from __future__ import annotations

import gzip
import struct
import warnings

import numpy as np
import pytest
import SimpleITK as sitk

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.reading.raster import Limits
from leanmed.reading.volume import open_volume

SHAPE = (6, 20, 24)
GOOD = (-0.7, 0, 0, 100, 0, -0.8, 0, 120, 0, 0, 2.5, -300)
UNIT = (-1, 0, 0, 100, 0, -1, 0, 120, 0, 0, 1, -300)
MOVED = (-0.7, 0, 0, 90, 0, -0.8, 0, 120, 0, 0, 2.5, -300)
SHEARED = (-0.7, 0.3, 0, 100, 0, -0.8, 0, 120, 0, 0, 2.5, -300)
TURNED = (0.7, 0, 0, 100, 0, 0.8, 0, 120, 0, 0, 2.5, -300)
ASLANT = (-0.7, 0, 0, 100, 0, -0.796, -0.2496, 120, 0, -0.0799, 2.4875, -300)  # 5.7 degrees about x
NOTHING = (0,) * 12


@pytest.fixture
def nifti(tmp_path):
    """`nifti(qform, sform, rows)`: voxel z, y, x holds 100 z + y; the qform is half a turn about z."""

    def write(qform, sform, rows, *, name="scan.nii", dims=(3, 24, 20, 6, 1, 1, 1, 1), scaling=(1, 0), qfac=1, **edits):
        z, y, _ = np.indices(SHAPE)
        voxels = (100 * z + y).astype("<i2").tobytes()
        header = bytearray(352)
        struct.pack_into("<i", header, 0, 348)
        struct.pack_into("<8h", header, 40, *dims)
        struct.pack_into("<hh", header, 70, 4, 16)
        struct.pack_into("<4f", header, 76, qfac, 0.7, 0.8, 2.5)
        struct.pack_into("<3f", header, 108, 352, *scaling)
        header[123] = edits.get("units", 2)
        struct.pack_into("<hh6f", header, 252, qform, sform, 0, 0, 1, 100, 120, -300)
        struct.pack_into("<12f", header, 280, *rows)
        header[344:348] = edits.get("magic", b"n+1\0")
        content = bytes(header) + voxels * dims[4]
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        return path

    return write


@pytest.mark.parametrize(
    ("qform", "sform", "rows", "noted"),
    [
        (1, 0, NOTHING, None),
        (0, 1, GOOD, None),
        (0, 2, GOOD, None),
        (1, 1, GOOD, None),
        (1, 2, GOOD, None),
        (1, 1, UNIT, "0.7 x 0.8 x 2.5 mm"),
        (1, 2, UNIT, "0.7 x 0.8 x 2.5 mm"),
        (1, 1, MOVED, "10.0 mm apart; the sform"),
        (1, 2, MOVED, "10.0 mm apart; the qform"),
        (2, 1, MOVED, "10.0 mm apart; the sform"),
        (2, 4, MOVED, "10.0 mm apart; the qform"),
        (1, 1, SHEARED, "right angles"),
        (1, 2, SHEARED, "right angles"),
        (1, 1, NOTHING, "right angles"),
    ],
)
def test_a_scan_lies_where_itk_puts_it_and_what_disagrees_is_noted(nifti, capfd, qform, sform, rows, noted):
    path = nifti(qform, sform, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = open_volume(path)
    assert capfd.readouterr() == ("", "")
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.grid.spacing, image.GetSpacing(), rtol=1e-6)
    for index in ((0, 0, 0), (23, 19, 5), (3, 7, 2)):
        np.testing.assert_allclose(volume.grid.world(index), image.TransformIndexToPhysicalPoint(index), atol=1e-3)
    assert np.array_equal(volume.voxels(1, 3), sitk.GetArrayFromImage(image)[1:3])
    assert np.array_equal(volume.hu(1, 3), volume.voxels(1, 3))
    assert (len(volume.notes), noted is None or noted in volume.notes[0]) == (int(noted is not None), True)


def test_the_last_slice_of_a_scan_with_a_unit_sform_lies_where_the_qform_says(nifti):
    assert open_volume(nifti(1, 2, UNIT)).grid.world((0, 0, 5)).tolist() == pytest.approx([-100, -120, -287.5])


@pytest.mark.parametrize(
    ("qform", "sform", "rows", "words"),
    [
        (1, 1, TURNED, "turn the scan alike"),
        (2, 2, ASLANT, "turn the scan alike"),
        (0, 1, UNIT, "one size"),
        (0, 1, SHEARED, "one size"),
        (0, 1, NOTHING, "one size"),
        (0, 1, (float("nan"),) * 12, "one size"),
        (0, 0, GOOD, "sform or a qform"),
    ],
)
def test_forms_that_leave_left_and_right_or_the_size_open_are_refused(nifti, refused, qform, sform, rows, words):
    with refused(UnsupportedInput, "scan.nii", words):
        open_volume(nifti(qform, sform, rows))


@pytest.mark.parametrize("scaling", [(0, 7), (float("nan"), 0), (1, 0), (0, float("nan"))])
def test_a_slope_of_nothing_leaves_the_stored_values_alone(nifti, scaling):
    volume = open_volume(nifti(1, 0, NOTHING, scaling=scaling))
    assert volume.voxels(2, 3)[0, :3, 0].tolist() == [200, 201, 202]


def test_slope_and_intercept_are_applied(nifti):
    assert open_volume(nifti(1, 0, NOTHING, scaling=(2, -1024))).voxels(2, 3)[0, 1, 0] == 2 * 201 - 1024


def test_a_qfac_of_zero_is_one(nifti):
    plain, odd = (open_volume(nifti(1, 0, NOTHING, name=f"q{qfac}.nii", qfac=qfac)) for qfac in (1, 0))
    assert plain.grid == odd.grid


def test_nifti_2_is_read(nifti, tmp_path):
    from nibabel import Nifti1Image, Nifti2Image, save

    old = Nifti1Image.from_filename(nifti(1, 1, GOOD))
    save(Nifti2Image(np.asarray(old.dataobj), old.affine), tmp_path / "new.nii.gz")
    volume = open_volume(tmp_path / "new.nii.gz")
    assert np.array_equal(volume.voxels(0, 6), open_volume(tmp_path / "scan.nii").voxels(0, 6))
    np.testing.assert_allclose(volume.grid.world((1, 2, 3)), open_volume(tmp_path / "scan.nii").grid.world((1, 2, 3)))


def test_one_scan_in_four_dimensions_is_read_and_several_are_refused(nifti, refused):
    assert len(open_volume(nifti(1, 0, NOTHING, dims=(4, 24, 20, 6, 1, 1, 1, 1)))) == 6
    with refused(UnsupportedInput, "one 3D scan"):
        open_volume(nifti(1, 0, NOTHING, dims=(4, 24, 20, 6, 2, 1, 1, 1)))


@pytest.mark.parametrize(
    ("edits", "kind", "words"),
    [
        ({"units": 1}, UnsupportedInput, "lengths in mm"),
        ({"magic": b"ni1\0"}, UnsupportedInput, "pair"),
        ({"magic": bytes(4)}, UnreadableInput, "mark"),
        ({"magic": b"n+2\0"}, UnreadableInput, "mark"),
    ],
)
def test_odd_headers_are_refused_in_one_sentence_and_nothing_is_printed(nifti, refused, capfd, edits, kind, words):
    with refused(kind, "scan.nii", words):
        open_volume(nifti(1, 1, GOOD, **edits))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_the_cap_on_bytes_holds_for_what_is_packed_and_for_what_is_unpacked(nifti, refused, name):
    path = nifti(1, 1, GOOD, name=name)
    unpacked = 352 + 6 * 20 * 24 * 2
    assert len(open_volume(path, Limits(max_scan_bytes=unpacked))) == 6
    with refused(InputTooLarge, name, "max_scan_bytes"):
        open_volume(path, Limits(max_scan_bytes=unpacked - 1))
