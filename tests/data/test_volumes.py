"""MR volumes with masks in the layouts of prostate data sets: what becomes of each slice, and what is refused."""

from __future__ import annotations

import json
from collections import Counter

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from leanmed.data import content_hash, content_hashes, data_hash, read_mask, read_pixels, read_records
from leanmed.errors import DataError, InputError
from leanmed.phantoms.scans import AXIAL, write_series
from leanmed.reading.ct import Grid

SHAPE = (5, 10, 12)
FROM_THE_HEAD = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def voxels():
    z, y, x = np.indices(SHAPE)
    return (100 * z + y + x).astype(np.int16)


def drawn(kind=np.uint8):
    """Label 1 in stored slice 1, label 2 in stored slice 2."""
    mask = np.zeros(SHAPE, kind)
    mask[1, 2:4, 3:6], mask[2, 5, 5] = 1, 2
    return mask


@pytest.fixture
def put(tmp_path):
    """`put("A/1.nii.gz", values)`: a volume below the root."""

    def save(name, values=None, *, direction=None, origin=(1.0, 2.0, 3.0)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(voxels() if values is None else values)
        image.SetSpacing((0.5, 0.6, 3.0)), image.SetOrigin(origin)
        image.SetDirection(direction or np.eye(3).ravel().tolist())
        sitk.WriteImage(image, str(path))
        return path

    return save


def groups(records):
    return {record.image.name: record.group for record in records}


def test_each_axial_slice_of_each_site_is_a_record(tmp_path, put):
    for site, ending in (("A", "_segmentation"), ("B", "_seg"), ("C", "_mask"), ("D", "_Label")):
        put(f"{site}/Case00.nii.gz"), put(f"{site}/Case00{ending}.nii.gz", drawn())
    found = read_records("mr-sites", tmp_path)
    assert Counter(record.site for record in found) == dict.fromkeys("ABCD", 5)
    assert [record.id for record in found[:5]] == [f"A/Case00.nii.gz#{z}" for z in range(5)]
    assert [record.frame for record in found[:5]] == [0, 1, 2, 3, 4]
    assert {record.group for record in found} == {"A/Case00", "B/Case00", "C/Case00", "D/Case00"}
    assert found[0].spacing == pytest.approx((3.0, 0.6, 0.5))
    assert [int((read_mask(record, ["object"]) == 1).sum()) for record in found[:5]] == [0, 6, 1, 0, 0]


def test_masks_and_pixels_are_in_the_patient_s_order_however_either_is_stored(tmp_path, put):
    put("A/1.nii.gz", direction=FROM_THE_HEAD)
    put("A/1_seg.nii.gz", drawn()[::-1], origin=(1.0, 2.0, -9.0))  # the same place, stored from the feet
    found = read_records("mr-sites", tmp_path)
    assert [int(read_mask(record, ["object"]).sum()) for record in found] == [0, 0, 1, 6, 0]
    pixels = read_pixels(found[3])
    stored = voxels()
    assert (pixels.dtype, pixels.shape) == (np.float32, (10, 12, 3))
    np.testing.assert_allclose(pixels[..., 1], (stored[1] - stored.mean()) / stored.std(), atol=1e-5)


def test_volumes_cut_from_the_side_are_shown_in_axial_slices(tmp_path, put):
    """Stored x runs to the back, y to the feet, z to the left."""
    put("A/1.mhd", direction=SAGITTAL), put("A/1_seg.mhd", drawn(), direction=SAGITTAL)
    found = read_records("mr-sites", tmp_path)
    assert (len(found), found[0].spacing) == (10, pytest.approx((0.6, 0.5, 3.0)))
    marks = np.stack([read_mask(record, ["object"]) for record in found])
    assert np.array_equal(marks > 0, drawn().transpose(1, 2, 0)[::-1] > 0)


def test_a_folder_of_a_case_is_no_site_and_the_first_reader_s_gland_is_taken(tmp_path, put):
    for side, case in (("train", "001"), ("test", "002")):
        put(f"{side}/{case}/t2.nii.gz"), put(f"{side}/{case}/t2_anatomy_reader1.nii.gz", drawn())
        put(f"{side}/{case}/t2_anatomy_reader2.nii.gz", drawn()), put(f"{side}/{case}/t2_tumor_reader1.nii.gz", drawn())
        put(f"{side}/{case}/adc.nii.gz")
    found = read_records("mr-sites", tmp_path)
    assert {(record.site, record.group) for record in found} == {(None, "train/001"), (None, "test/002")}
    assert {record.mask.files[0].name for record in found} == {"t2_anatomy_reader1.nii.gz"}
    assert {record.attributes["original_split"] for record in found} == {"train", "test"}
    assert any("4 masks, of tumours or by further readers" in note for note in found.notes)
    assert any("2 volumes have no mask" in note and "adc.nii.gz" in note for note in found.notes)
    with pytest.raises(DataError, match=r"the reading is strict(.|\n)*adc\.nii\.gz"):
        read_records("mr-sites", tmp_path, strict=True)


def test_a_mask_named_mask_belongs_to_the_one_volume_beside_it(tmp_path, put):
    put("A/p1/image.nii.gz"), put("A/p1/mask.nii.gz", drawn())
    found = read_records("mr-sites", tmp_path)
    assert {(record.site, record.group) for record in found} == {("A", "A/p1")}


def test_promise12_is_read_at_any_depth_and_cases_without_masks_are_counted(tmp_path, put):
    put("Part1/Case00.mhd"), put("Part1/Case00_segmentation.mhd", drawn(np.int8)), put("test/Case30.mhd")
    found = read_records("promise12", tmp_path)
    assert {(record.group, record.site) for record in found} == {("Case00", None)}
    assert any("1 volumes have no mask" in note and "Case30.mhd" in note for note in found.notes)


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "PZ": 1, "TZ": 2}, {"0": "background", "1": "PZ", "2": "TZ"}],
)
def test_nnunet_names_its_labels(tmp_path, put, labels):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    put("imagesTr/p_1_0000.nii.gz"), put("imagesTr/p_1_0001.nii.gz"), put("labelsTr/p_1.nii.gz", drawn(np.float32))
    put("imagesTr/p_2_0000.nii.gz")
    found = read_records("nnunet", tmp_path)
    assert dict(found[0].mask.values) == {"PZ": (1,), "TZ": (2,)}
    assert {record.group for record in found} == {"p_1"}
    assert [int(read_mask(record, ["TZ", "PZ"]).sum()) for record in found] == [0, 12, 1, 0, 0]
    assert any("1 files in imagesTr are other channels" in note for note in found.notes)
    assert any("1 volumes have no mask" in note and "p_2" in note for note in found.notes)


def test_what_nnunet_ignores_is_neither_a_label_nor_background(tmp_path, put):
    labels = {"background": 0, "PZ": 1, "ignore": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    put("imagesTr/p_0000.nii.gz"), put("labelsTr/p.nii.gz", drawn())
    found = read_records("nnunet", tmp_path)
    assert dict(found[0].mask.values) == {"PZ": (1,)}
    marks = np.stack([read_mask(record, ["PZ"]) for record in found])
    assert [(marks == value).sum() for value in (1, 255)] == [(drawn() == value).sum() for value in (1, 2)]


@pytest.mark.parametrize("content", [None, "{", '{"labels": 3}', '{"labels": {"gland": "x"}}'])
def test_nnunet_without_labels_is_refused(tmp_path, put, refused, content):
    put("imagesTr/p_0000.nii.gz"), put("labelsTr/p.nii.gz", drawn())
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with refused(DataError, "dataset.json"):
        read_records("nnunet", tmp_path)


def test_nci_isbi_joins_series_and_masks_by_the_case_s_name(tmp_path, put):
    folder = tmp_path / "DICOM/Prostate3T-01-0001/study/series"
    folder.mkdir(parents=True)
    here = Grid(SHAPE, (0.5, 0.6, 3.0), (1.0, 2.0, 3.0), AXIAL)
    write_series(folder, voxels(), here, Modality="MR", RescaleSlope=None, RescaleIntercept=None, RescaleType=None)
    put("labels/Prostate3T-01-0001_truth.nrrd", drawn()), put("labels/ProstateDx-01-0002.nrrd", drawn())
    put("labels/Prostate3T-01-00010.nrrd", drawn())  # of another case, whose name begins alike
    found = read_records("nci-isbi", tmp_path)
    assert {(record.site, record.group) for record in found} == {("Prostate3T", "Prostate3T/Prostate3T-01-0001")}
    assert [int(read_mask(record, ["object"]).sum()) for record in found] == [0, 6, 1, 0, 0]
    assert read_pixels(found[0]).shape == (10, 12, 3)
    assert any("2 masks have no volume" in note and "ProstateDx-01-0002" in note for note in found.notes)
    assert len(set(content_hashes(found))) == 1


@pytest.fixture
def hdf5(tmp_path):
    (tmp_path / "A").mkdir()
    with h5py.File(tmp_path / "A/cases.h5", "w") as file:
        for case in "01":
            file[f"image{case}"], file[f"label{case}"] = voxels() + int(case), drawn(np.int8)
        file["image2"] = voxels()
    return tmp_path


def test_hdf5_has_a_case_for_each_pair_of_data_sets(hdf5):
    found = read_records("volumes-h5", hdf5)
    assert {record.group for record in found} == {"A/cases.h5/image0", "A/cases.h5/image1"}
    assert {(record.site, record.spacing) for record in found} == {("A", None)}
    assert [int(read_mask(record, ["object"]).sum()) for record in found] == [0, 6, 1, 0, 0] * 2
    stored = voxels()
    np.testing.assert_allclose(read_pixels(found[4])[..., 0], (stored[3] - stored.mean()) / stored.std(), atol=1e-5)
    assert any("1 volumes have no mask" in note and "image2" in note for note in found.notes)
    assert content_hash(hdf5 / "A/cases.h5/image0") != content_hash(hdf5 / "A/cases.h5/image1")


def test_hdf5_may_say_its_spacing(hdf5):
    with h5py.File(hdf5 / "A/cases.h5", "a") as file:
        file["image0"].attrs["spacing"] = [3.0, 0.6, 0.5]
    found = read_records("volumes-h5", hdf5)
    assert {record.spacing for record in found} == {(3.0, 0.6, 0.5), None}


def test_a_mask_is_part_of_the_data_set_s_hash(tmp_path, put):
    put("A/1.nii.gz"), put("A/1_seg.nii.gz", drawn())
    found = read_records("mr-sites", tmp_path)
    before = data_hash(found, content_hashes(found))
    put("A/1_seg.nii.gz", drawn() * 2)
    assert data_hash(found, content_hashes(found)) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": drawn()[1:]}, ("shape, (5, 10, 12)", "(4, 10, 12)")),
        ({"origin": (1.0, 2.2, 3.0)}, ("0.20 mm away", "resample")),
        ({"direction": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)}, ("mm away",)),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path, put, refused, change, words):
    put("A/1.nii.gz"), put("A/1_seg.nii.gz", **({"values": drawn()} | change))
    with refused(DataError, "A/1_seg.nii.gz", *words):
        read_records("mr-sites", tmp_path)


def test_headers_that_are_rounded_do_not_part_a_mask_from_its_volume(tmp_path, put):
    put("A/1.nii.gz"), put("A/1_seg.nii.gz", drawn(), origin=(1.0, 2.1, 3.0))
    assert len(read_records("mr-sites", tmp_path)) == 5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda mask: mask * 0.5, "got 0.5"),
        (lambda mask: np.where(mask > 0, np.nan, 0), "NaN"),
        (lambda mask: -mask, "got -2"),
    ],
)
def test_masks_without_whole_labels_are_refused(tmp_path, put, refused, change, word):
    put("A/1.nii.gz"), put("A/1_seg.nii.gz", change(drawn(np.float32)).astype(np.float32))
    record = read_records("mr-sites", tmp_path)[0]
    with refused(InputError, "1_seg.nii.gz", word):
        read_mask(record, ["object"])


def test_a_volume_without_anything_marked_is_read(tmp_path, put):
    put("A/1.nii.gz"), put("A/1_seg.nii.gz", np.zeros(SHAPE, np.uint8))
    assert not any(read_mask(record, ["object"]).any() for record in read_records("mr-sites", tmp_path))


@pytest.mark.parametrize("dataset", ["mr-sites", "promise12", "nci-isbi", "volumes-h5"])
def test_a_folder_without_volumes_and_masks_is_refused(tmp_path, put, refused, dataset):
    put("A/1.mhd")
    with refused(DataError, "volumes with masks", "got none"):
        read_records(dataset, tmp_path)


@pytest.mark.realdata
def test_real_glands_are_read_slice_by_slice(real_data):
    root = real_data("prostate-samples")
    found = read_records("mr-sites", root / "prostate158")
    assert Counter(record.group for record in found) == {
        "test/001": 23,
        "test/002": 23,
        "valid/020": 24,
        "valid/021": 24,
    }
    first = [record for record in found if record.group == "test/001"]
    marks = np.stack([read_mask(record, ["object"]) for record in first])
    image = sitk.ReadImage(str(root / "prostate158/test/001/t2_anatomy_reader1.nii.gz"))
    theirs = sitk.GetArrayFromImage(image) > 0
    assert (int(marks.sum()), read_pixels(first[0]).shape) == (int(theirs.sum()), (232, 232, 3))
    # The first slice of our order is the one nearest to the feet.
    lowest = min(np.argwhere(theirs), key=lambda at: image.TransformIndexToPhysicalPoint(at[::-1].tolist())[2])
    assert int(marks.any((1, 2)).argmax()) == int(lowest[0])


@pytest.mark.realdata
def test_two_real_volumes_in_hdf5_are_read(real_data):
    found = read_records("volumes-h5", real_data("prostate-samples"))
    assert Counter(record.group for record in found) == dict.fromkeys(
        ("promise12_demo2.h5/image0", "promise12_demo2.h5/image1"), 32
    )
    assert sum(int(read_mask(record, ["object"]).sum()) for record in found) == 33426
