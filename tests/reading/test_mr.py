"""MR volumes: z-scores and slices in the patient's order, and masks that lie where their volume lies."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from leanmed.errors import InputError, UnreadableInput, UnsupportedInput
from leanmed.phantoms.scans import AXIAL, write_mhd, write_series
from leanmed.reading.ct import Grid
from leanmed.reading.mr import VolumeCache, open_mr, read_mr_slice, read_mr_volume, write_mask_nifti
from leanmed.reading.volume import is_series, open_volume

C, S = np.cos(0.3).item(), np.sin(0.3).item()
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
FROM_THE_HEAD = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))
TURNED = ((C, 0.0, S), (0.0, -1.0, 0.0), (S, 0.0, -C))
DIRECTIONS = {"axial": AXIAL, "flipped": FLIPPED, "head first": FROM_THE_HEAD, "turned": TURNED} | {
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
}
SHAPE = (9, 10, 12)


def grid(direction=AXIAL):
    return Grid(SHAPE, (0.6, 0.8, 3.0), (-20.5, 31.25, -101.125), direction)


def bright(stored):
    return stored > stored.min() + 100


@pytest.fixture
def stored():
    """A faint slope, and a bright block that is not in the middle of any axis."""
    z, y, x = np.indices(SHAPE)
    values = (x + 2 * y + 3 * z).astype(np.int16)
    values[2:4, 1:5, 6:11] = 1000
    return values


@pytest.fixture
def volume(tmp_path, stored):
    """`volume(kind, direction)`: a file of that kind, or a DICOM series, of which every value is known."""

    def write(kind, direction=AXIAL, values=stored):
        image = sitk.GetImageFromArray(values)
        here = grid(direction)
        image.SetSpacing(here.spacing), image.SetOrigin(here.origin), image.SetDirection(np.ravel(here.direction))
        path = tmp_path / f"t2{kind}"
        if kind == "series":
            path.mkdir()
            write_series(path, values, here, Modality="MR", RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
        else:
            sitk.WriteImage(image, str(path))
        return path

    return write


def as_itk(path):
    if not path.is_dir():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def centroid(image, where):
    z, y, x = np.argwhere(where).mean(0)
    return image.TransformContinuousIndexToPhysicalPoint((x, y, z))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("kind", [".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", "series"])
def test_a_mask_is_written_where_itk_sees_what_it_marks(tmp_path, volume, kind, direction):
    path = volume(kind, direction)
    scores, _, _ = read_mr_volume(path)
    out = tmp_path / "mask.nii.gz"
    write_mask_nifti(out, (scores > 2).astype(np.uint8), path)
    image, mask = as_itk(path), sitk.ReadImage(str(out))
    assert mask.GetSize() == image.GetSize()
    marked = sitk.GetArrayFromImage(mask)
    assert (marked.dtype, marked.sum()) == (np.uint8, 40)
    np.testing.assert_allclose(
        centroid(mask, marked == 1), centroid(image, bright(sitk.GetArrayFromImage(image))), atol=1e-3
    )
    forms = nibabel.load(out)
    for form in (forms.get_sform(), forms.get_qform()):
        np.testing.assert_allclose(form, nibabel.load(out).affine, atol=1e-5)


def test_of_nifti_both_forms_are_copied_as_they_are(tmp_path, stored):
    affine = np.array([[-0.6, 0, 0, 20.1], [0, -0.8, 0, 33.3], [0, 0, 3.0, -77.7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(stored.transpose(2, 1, 0), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 4)
    nibabel.save(image, tmp_path / "t2.nii.gz")
    write_mask_nifti(tmp_path / "m.nii", np.zeros(SHAPE, np.uint8), tmp_path / "t2.nii.gz")
    was, now = nibabel.load(tmp_path / "t2.nii.gz").header, nibabel.load(tmp_path / "m.nii").header
    for name in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(was[name], now[name])
    assert np.array_equal(was["pixdim"][:4], now["pixdim"][:4])
    assert (int(now["qform_code"]), int(now["sform_code"])) == (1, 4)


def test_the_same_mask_is_written_as_the_same_bytes_and_nothing_half(tmp_path, volume):
    path, mask = volume(".mhd"), np.ones(SHAPE, np.uint8)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_mask_nifti(tmp_path / name, mask, path)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    for wrong in (mask.astype(np.int16), mask[1:]):
        with pytest.raises(ValueError, match="mask of uint8 in a shape of"):
            write_mask_nifti(tmp_path / "c.nii.gz", wrong, path)
    with pytest.raises(ValueError, match=r"\.nii"):
        write_mask_nifti(tmp_path / "c.png", mask, path)
    assert sorted(file.name for file in tmp_path.glob("*.nii*")) == ["a.nii.gz", "b.nii.gz"]


def test_scores_have_the_mean_and_the_spread_of_the_whole_volume(volume, stored):
    scores, placed, orientation = read_mr_volume(volume(".nii.gz"))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, (stored - stored.mean()) / stored.std(), atol=1e-5)
    assert (placed.shape, orientation.is_axial) == (SHAPE, True)


def test_slices_are_counted_from_the_feet_and_ends_are_repeated(volume, stored):
    path = volume(".nii.gz", FROM_THE_HEAD)
    expected = ((stored - stored.mean()) / stored.std())[::-1]
    lowest, middle = read_mr_slice(path, 0), read_mr_slice(path, 5)
    assert (lowest.dtype, lowest.shape) == (np.float32, (10, 12, 3))
    np.testing.assert_allclose(lowest, expected[[0, 0, 1]].transpose(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(middle, expected[[4, 5, 6]].transpose(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose(read_mr_slice(path, 8), expected[[7, 8, 8]].transpose(1, 2, 0), atol=1e-5)
    with pytest.raises(IndexError, match="within 0 to 8, got 9"):
        read_mr_slice(path, 9)


def test_a_sagittal_volume_is_shown_in_axial_slices(volume, stored):
    """Stored x runs to the back, y to the feet and z to the left."""
    turned = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    scores, _, _ = read_mr_volume(volume(".mhd", turned))
    expected = (stored - stored.mean()) / stored.std()  # [left, feet, back]
    np.testing.assert_allclose(scores, expected.transpose(1, 2, 0)[::-1], atol=1e-5)


def test_a_volume_is_read_once_until_its_file_changes(tmp_path):
    seen = []

    def read(path):
        seen.append(path.name)
        return np.zeros(10, np.float32)

    for name in "abc":
        (tmp_path / name).write_text("1")
    kept = VolumeCache(read, most=2, most_bytes=1000)
    for name in ("a", "a", "b", "a", "c", "a", "b"):
        kept(tmp_path / name)
    assert seen == ["a", "b", "c", "b"]
    (tmp_path / "b").write_text("12")
    kept(tmp_path / "b")
    assert seen[4:] == ["b"]
    small = VolumeCache(read, most=2, most_bytes=39)
    assert len([small(tmp_path / "a"), small(tmp_path / "a")]) == 2
    assert seen[5:] == ["a", "a"]


def test_ct_and_mr_are_not_taken_for_each_other(volume, tmp_path, stored, refused):
    folder = volume("series")
    assert (is_series(folder), is_series(folder, "MR")) == (False, True)
    assert len(open_mr(folder)) == 9
    with refused(InputError, "RescaleSlope"):
        open_volume(folder)
    other = tmp_path / "ct"
    other.mkdir()
    write_series(other, stored, grid())
    with refused(UnsupportedInput, "expected MR in grey, got CT", "MR series"):
        open_mr(other)
    write_mhd(tmp_path / "ct.mhd", stored, grid())
    with (tmp_path / "ct.mhd").open() as file:
        lines = file.readlines()
    (tmp_path / "ct.mhd").write_text("".join(["Modality = MET_MOD_CT\n", *lines]))
    with refused(UnsupportedInput, "ct.mhd", "expected MR, got Modality = MET_MOD_CT", "an MR scan"):
        open_mr(tmp_path / "ct.mhd")


def test_slope_and_intercept_of_a_series_are_applied(tmp_path, stored):
    folder = tmp_path / "series"
    folder.mkdir()
    write_series(folder, stored, grid(), Modality="MR", RescaleSlope="2", RescaleIntercept="-2048", RescaleType="US")
    assert np.array_equal(open_mr(folder).voxels(0, 9), 2.0 * stored)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: np.where(v == 1000, np.nan, v), ("NaN", "nan_to_num")),
        (lambda v: np.where(v == 1000, np.inf, v), ("infinity",)),
        (lambda v: np.full_like(v, 0.1), ("several values, got 0.1",)),
    ],
)
def test_volumes_without_a_score_are_refused(volume, stored, refused, change, words):
    path = volume(".nii.gz", values=change(stored.astype(np.float32)).astype(np.float32))
    for read in (read_mr_volume, lambda path: read_mr_slice(path, 0)):
        with refused(UnsupportedInput, "t2.nii.gz", *words):
            read(path)


def test_headers_without_a_right_reading_are_refused(tmp_path, stored, refused):
    values = stored.transpose(2, 1, 0)
    affine = np.diag([-0.6, -0.8, 3.0, 1])
    nibabel.save(nibabel.Nifti1Image(np.stack([values, values], 3), affine), tmp_path / "four.nii.gz")
    with refused(UnsupportedInput, "four.nii.gz", "one 3D scan"):
        open_mr(tmp_path / "four.nii.gz")
    flat = nibabel.Nifti1Image(values, affine)
    flat.header["qform_code"], flat.header["sform_code"] = 0, 1
    flat.header["srow_z"] = flat.header["srow_y"]
    (tmp_path / "flat.nii").write_bytes(flat.header.binaryblock + bytes(4) + values.tobytes(order="F"))
    with refused(UnsupportedInput, "flat.nii"):
        open_mr(tmp_path / "flat.nii")
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "cut.nii")
    whole = (tmp_path / "cut.nii").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(whole[:-100]))
    with refused(UnreadableInput, "cut.nii.gz", "MR scan"):
        read_mr_volume(tmp_path / "cut.nii.gz")


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["test/001", "valid/020"])
def test_a_real_gland_is_written_back_where_it_was_drawn(real_data, tmp_path, case):
    folder = real_data("prostate-samples") / "prostate158" / case
    image, drawn = folder / "t2.nii.gz", folder / "t2_anatomy_reader1.nii.gz"
    scores, _, orientation = read_mr_volume(image)
    gland = orientation.turned(open_mr(drawn).voxels(0, len(scores))) > 0
    write_mask_nifti(tmp_path / "m.nii.gz", gland.astype(np.uint8), image)
    ours, theirs = sitk.ReadImage(str(tmp_path / "m.nii.gz")), sitk.ReadImage(str(drawn))
    np.testing.assert_allclose(
        centroid(ours, sitk.GetArrayFromImage(ours) > 0),
        centroid(theirs, sitk.GetArrayFromImage(theirs) > 0),
        atol=1e-3,
    )
    assert np.array_equal(sitk.GetArrayFromImage(ours) > 0, sitk.GetArrayFromImage(theirs) > 0)
