from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import RLELossless

from leanmed.errors import InputTooLarge, UnreadableInput, UnsupportedInput
from leanmed.phantoms.scans import AXIAL, write_mhd, write_series
from leanmed.reading.ct import MAX_SLICES, Grid
from leanmed.reading.images import read_image
from leanmed.reading.raster import Limits
from leanmed.reading.volume import is_volume, open_volume

C, S = np.cos(np.deg2rad(25)).item(), np.sin(np.deg2rad(25)).item()
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
OBLIQUE = ((C, -S, 0.0), (S, C, 0.0), (0.0, 0.0, 1.0))
TURNED = ((0.0, C, S), (1.0, 0.0, 0.0), (0.0, S, -C))  # left-handed, as a scan stored upside down is
PLACED = {"spacing": (0.7, 0.9, 2.5), "origin": (-170.5, 30.25, -301.125)}


def grid(direction=AXIAL) -> Grid:
    return Grid((6, 11, 14), direction=direction, **PLACED)


@pytest.fixture
def stored():
    """Slice z holds 100 z HU, and a little more at each next pixel."""
    z, y, x = np.indices((6, 11, 14))
    return (100 * z + y - 3 * x).astype(np.int16)


@pytest.fixture
def mhd(tmp_path, stored):
    """`mhd(Key="value")`: a MetaImage with header lines changed, or left out for None."""

    def write(**changes):
        path = tmp_path / "scan.mhd"
        write_mhd(path, stored, grid())
        lines = dict(line.split(" = ") for line in path.read_text().splitlines()) | changes
        path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None))
        return path

    return write


@pytest.fixture
def series(tmp_path, stored):
    """`series(Keyword=value)`: a folder of six DICOM slices; names and places run in opposite orders."""

    def write(direction=AXIAL, **changes):
        folder = tmp_path / "series"
        folder.mkdir()
        (folder / "LICENSE").write_text("no slice")
        write_series(folder, stored, grid(direction), **changes)
        return folder

    return write


def edit(path, **changes):
    dataset = dcmread(path)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def as_itk(path, kind):
    """The same scan in another form, written by SimpleITK."""
    other = path.with_name(f"other{kind}")
    sitk.WriteImage(sitk.ReadImage(str(path)), str(other))
    return other


def itk_series(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("direction", [AXIAL, FLIPPED, OBLIQUE, TURNED])
@pytest.mark.parametrize("kind", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
def test_world_and_voxel_are_those_of_itk(tmp_path, stored, direction, kind):
    path = tmp_path / "scan.mhd"
    write_mhd(path, stored, grid(direction))
    image = sitk.ReadImage(str(path))
    volume = open_volume(path if kind == ".mhd" else as_itk(path, kind))
    points = np.random.default_rng(0).uniform(-100, 100, (20, 3))
    wanted = [image.TransformPhysicalPointToContinuousIndex(point) for point in points.tolist()]
    np.testing.assert_allclose(volume.grid.voxel(points), wanted, atol=1e-4)
    np.testing.assert_allclose(volume.grid.world(wanted), points, atol=1e-4)
    assert np.array_equal(volume.voxels(2, 5), stored[2:5])


@pytest.mark.parametrize("direction", [AXIAL, FLIPPED, OBLIQUE])
def test_a_series_has_the_order_and_place_that_itk_gives_it(series, stored, direction):
    folder = series(direction)
    image, volume = itk_series(folder), open_volume(folder)
    assert np.array_equal(volume.voxels(0, 6), sitk.GetArrayFromImage(image))
    assert np.array_equal(volume.voxels(0, 6), stored)
    wanted = image.TransformPhysicalPointToContinuousIndex((10.0, 20.0, -290.0))
    np.testing.assert_allclose(volume.grid.voxel((10, 20, -290)), wanted, atol=1e-4)


def test_a_voxel_s_place_in_a_flipped_scan_worked_by_hand():
    scan = Grid((4, 10, 10), (0.5, 2.0, 3.0), (100.0, 50.0, -20.0), FLIPPED)
    assert scan.world((2, 3, 1)).tolist() == [99.0, 44.0, -17.0]
    assert scan.voxel((99.0, 44.0, -17.0)).tolist() == [2.0, 3.0, 1.0]


def test_only_the_slices_asked_for_are_read(series, stored):
    folder = series()
    volume = open_volume(folder)
    for name in ("0006.dcm", "0001.dcm"):  # slices 0 and 5
        (folder / name).unlink()
    assert np.array_equal(volume.voxels(1, 5), stored[1:5])
    with pytest.raises(UnreadableInput, match="series"):
        volume.voxels(0, 1)


def test_slices_that_a_scan_has_not_got_are_no_slices(mhd):
    volume = open_volume(mhd())
    assert len(volume) == 6
    for first, end in ((-1, 2), (3, 3), (4, 7)):
        with pytest.raises(IndexError):
            volume.voxels(first, end)


def test_identifiers_are_the_name_or_the_series(mhd, series):
    path = mhd()
    assert open_volume(path).uid == "scan"
    assert open_volume(as_itk(path, ".nii.gz")).uid == "other"
    assert open_volume(series(SeriesInstanceUID="1.2.3")).uid == "1.2.3"


def test_big_endian_and_floating_point_voxels_are_read(mhd, tmp_path, stored):
    path = mhd(ElementType="MET_FLOAT", BinaryDataByteOrderMSB="True")
    (tmp_path / "scan.raw").write_bytes((stored + 0.5).astype(">f4").tobytes())
    assert np.array_equal(open_volume(path).voxels(0, 6), stored + 0.5)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"TransformMatrix": None}, UnsupportedInput, "TransformMatrix"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, UnsupportedInput, "right angles"),
        ({"TransformMatrix": "1 0 0"}, UnreadableInput, "reading failed"),
        ({"Offset": None}, UnreadableInput, "Offset"),
        ({"Offset": "nan 0 0"}, UnsupportedInput, "finite"),
        ({"ElementSpacing": "1 1 0"}, UnsupportedInput, "spacing above 0"),
        ({"ElementSpacing": "1 1"}, UnreadableInput, "three numbers, got 2"),
        ({"DimSize": "14 11 7"}, UnreadableInput, "2,156 bytes"),
        ({"DimSize": "14 11 5"}, UnreadableInput, "1,540 bytes"),
        ({"DimSize": "14 11 0"}, UnsupportedInput, "slices"),
        ({"DimSize": f"14 11 {MAX_SLICES + 1}"}, UnsupportedInput, "slices"),
        ({"DimSize": "99999 99999 6"}, InputTooLarge, "pixels"),
        ({"NDims": "2"}, UnsupportedInput, "NDims = 3"),
        ({"BinaryData": "False"}, UnsupportedInput, "BinaryData = True"),
        ({"ElementDataFile": "LIST"}, UnsupportedInput, "one .mha file"),
        ({"ElementDataFile": "slice%03d.raw 1 6 1"}, UnsupportedInput, "one .mha file"),
        ({"ElementNumberOfChannels": "3"}, UnsupportedInput, "ElementNumberOfChannels"),
        ({"ElementType": "MET_LONG"}, UnsupportedInput, "MET_LONG"),
        ({"Modality": "MET_MOD_MR"}, UnsupportedInput, "MET_MOD_MR"),
        ({"ElementDataFile": "absent.raw"}, UnreadableInput, "absent.raw"),
        ({"ElementDataFile": "../scan.raw"}, UnsupportedInput, "leaves its folder"),
        ({"ElementDataFile": "/etc/passwd"}, UnsupportedInput, "leaves its folder"),
        ({"ElementDataFile": r"..\scan.raw"}, UnsupportedInput, "leaves its folder"),
        ({"ElementDataFile": r"C:\scan.raw"}, UnsupportedInput, "leaves its folder"),
        ({"Comment": "x" * 70_000}, InputTooLarge, "header"),
    ],
)
def test_a_bad_header_is_refused_by_name(mhd, refused, changes, kind, words):
    with refused(kind, "scan.mhd", words):
        open_volume(mhd(**changes))


def packed_as_itk(path, kind):
    other = path.with_name(f"packed{kind}")
    sitk.WriteImage(sitk.ReadImage(str(path)), str(other), useCompression=True)
    return other


@pytest.mark.parametrize("kind", [".mhd", ".mha", ".nrrd"])
def test_packed_voxels_are_read_in_any_order(mhd, stored, kind):
    volume = open_volume(packed_as_itk(mhd(), kind))
    for first, end in ((0, 2), (2, 5), (1, 2), (5, 6), (0, 6)):
        assert np.array_equal(volume.voxels(first, end), stored[first:end])


@pytest.mark.parametrize(("count", "words"), [(5, "got more"), (7, "got fewer")])
def test_packed_voxels_of_another_number_than_declared_are_refused(mhd, refused, count, words):
    path = packed_as_itk(mhd(), ".mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize = 14 11 6", b"DimSize = 14 11 %d" % count))
    with refused(UnreadableInput, "packed.mha", words):
        open_volume(path).voxels(0, count)


def test_voxels_that_would_unfold_beyond_the_cap_are_refused_before_any_is_unpacked(mhd, refused, monkeypatch):
    path = packed_as_itk(mhd(), ".mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize = 14 11 6", b"DimSize = 999 999 4999"))
    monkeypatch.setattr(zlib, "decompressobj", lambda *_: pytest.fail("unpacked"))
    with refused(InputTooLarge, "packed.mha", "9,978,013,998"):
        open_volume(path)


def test_no_more_is_unpacked_than_is_asked_for(tmp_path):
    """A megabyte of zeros for each slice, of which one is asked for; the rest stays packed."""
    header = "ObjectType = Image\nNDims = 3\nCompressedData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    header += "Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 1024 1024 64\nElementType = MET_CHAR\n"
    path = tmp_path / "zeros.mha"
    path.write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + zlib.compress(bytes(64 << 20)))
    volume = open_volume(path)
    tracemalloc.start()
    assert not volume.voxels(9, 10).any()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20  # the slice as floats is 4 MiB, all slices as bytes would be 64


def test_the_cap_on_bytes_holds_for_scans_in_files(mhd, refused):
    path = mhd()
    for scan in (path, as_itk(path, ".mha"), as_itk(path, ".nrrd")):
        assert len(open_volume(scan, Limits(max_scan_bytes=4096))) == 6
        with refused(InputTooLarge, scan.name, "max_scan_bytes"):
            open_volume(scan, Limits(max_scan_bytes=1000))


def nrrd(path, stored, **changes):
    """A NRRD worked by hand, in RAS; fields are changed, or left out for None."""
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "right-anterior-superior",
        "sizes": "14 11 6",
        "space directions": "(-0.7,0,0) (0,-0.9,0) (0,0,2.5)",
        "kinds": "domain domain domain",
        "endian": "big",
        "encoding": "raw",
        "space origin": "(10,20,30)",
    } | {key.replace("_", " "): value for key, value in changes.items()}
    lines = ["NRRD0004", "# a remark", *(f"{key}: {value}" for key, value in fields.items() if value is not None)]
    path.write_bytes("\n".join([*lines, "key:=value", "", ""]).encode() + stored.astype(">i2").tobytes())
    return path


def test_a_nrrd_worked_by_hand_is_read(tmp_path, stored):
    volume = open_volume(nrrd(tmp_path / "a.nrrd", stored))
    assert np.array_equal(volume.voxels(2, 5), stored[2:5])
    assert volume.grid.spacing == pytest.approx((0.7, 0.9, 2.5))
    assert volume.grid.world((1, 1, 1)).tolist() == pytest.approx([-10 + 0.7, -20 + 0.9, 32.5])  # as LPS


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"encoding": "bzip2"}, UnsupportedInput, "encoding"),
        ({"type": "block"}, UnsupportedInput, "type"),
        ({"dimension": "4"}, UnsupportedInput, "dimension"),
        ({"space": None}, UnsupportedInput, "left and right"),
        ({"space": "3d-right-handed"}, UnsupportedInput, "left and right"),
        ({"data_file": "/etc/passwd"}, UnsupportedInput, "data file"),
        ({"sizes": None}, UnreadableInput, "sizes"),
        ({"space_directions": "none (1,0,0) (0,1,0)"}, UnreadableInput, "vectors"),
        ({"sizes": "14 11 7"}, UnreadableInput, "2,156 bytes"),
        ({"sizes": "99999 99999 6"}, InputTooLarge, "pixels"),
        ({"content": "x" * 70_000}, InputTooLarge, "header"),
    ],
)
def test_a_bad_nrrd_is_refused_by_name(tmp_path, stored, refused, changes, kind, words):
    with refused(kind, "a.nrrd", words):
        open_volume(nrrd(tmp_path / "a.nrrd", stored, **changes))


@pytest.mark.parametrize("name", ["scan.hdr", "scan.img", "scan.nhdr"])
def test_scans_in_pairs_are_refused_with_advice_that_works(tmp_path, mhd, stored, refused, monkeypatch, name):
    if name != "scan.nhdr":
        sitk.WriteImage(sitk.ReadImage(str(mhd())), str(tmp_path / "scan.img"))
    else:
        sitk.WriteImage(sitk.ReadImage(str(mhd())), str(tmp_path / name))
    for read in (open_volume, read_image):
        with refused(UnsupportedInput, name, "SimpleITK"):
            read(tmp_path / name)
    with pytest.raises(UnsupportedInput) as caught:
        open_volume(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(str(caught.value).partition("in Python: ")[2])
    assert np.array_equal(open_volume(tmp_path / "scan.nii.gz").voxels(0, 6), stored)


def test_no_text_and_no_file_are_no_scan(tmp_path, refused):
    (tmp_path / "a.mhd").write_text("no header")
    (tmp_path / "a.nii").write_bytes(b"no header either")
    (tmp_path / "a.png").write_bytes(b"")
    for name, kind in (("a.mhd", UnreadableInput), ("a.nii", UnreadableInput), ("a.png", UnsupportedInput)):
        with refused(kind, name):
            open_volume(tmp_path / name)
    with refused(UnreadableInput, "nothing there"):
        open_volume(tmp_path / "absent.mhd")


def test_a_truncated_nifti_is_refused_before_a_slice_is_read(mhd, refused):
    path = as_itk(mhd(), ".nii")
    path.write_bytes(path.read_bytes()[:-1])
    with refused(UnreadableInput, "bytes"):
        open_volume(path)


def test_a_compressed_nifti_is_read_in_any_order_whatever_the_case_of_its_name(mhd, stored):
    path = as_itk(mhd(), ".nii.gz")
    loud = path.with_name("SCAN.NII.GZ")
    path.rename(loud)
    volume = open_volume(loud)
    for first, end in ((0, 2), (2, 5), (1, 2)):
        assert np.array_equal(volume.voxels(first, end), stored[first:end])


def test_a_nifti_without_direction_or_with_time_is_refused(mhd, refused):
    path = as_itk(mhd(), ".nii")
    data = bytearray(path.read_bytes())
    data[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(data)
    with refused(UnsupportedInput, "sform"):
        open_volume(path)
    image = sitk.JoinSeries([sitk.ReadImage(str(mhd()))] * 2)
    sitk.WriteImage(image, str(path))
    with refused(UnsupportedInput, "one 3D scan"):
        open_volume(path)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"Modality": "MR"}, UnsupportedInput, "got MR"),
        ({"RescaleType": "Z_EFF"}, UnsupportedInput, "Z_EFF"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, UnsupportedInput, "MONOCHROME1"),
        ({"RescaleSlope": None}, UnreadableInput, "RescaleSlope"),
        ({"ImagePositionPatient": None}, UnreadableInput, "ImagePositionPatient"),
        ({"GantryDetectorTilt": "12.5"}, UnsupportedInput, "12.5 degrees"),
        ({"PixelData": None}, UnreadableInput, "no pixel data"),
    ],
)
def test_a_bad_series_is_refused_by_name(series, refused, changes, kind, words):
    with refused(kind, "series", words):
        open_volume(series(**changes))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"SeriesInstanceUID": "1.2.3"}, UnsupportedInput, "5, 1 slices"),
        ({"ImagePositionPatient": [-170.5, 30.25, -298.625]}, UnsupportedInput, "lie in one place"),
        ({"ImagePositionPatient": [-150.5, 30.25, -296.125]}, UnsupportedInput, "shifted sideways by 20 mm"),
        ({"PixelSpacing": [0.9, 0.8]}, UnsupportedInput, "one size, spacing and orientation"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, UnsupportedInput, "one size, spacing and orientation"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(series, refused, changes, kind, words):
    folder = series()
    edit(folder / "0004.dcm", **changes)  # slice 2, at z = -296.125
    with refused(kind, words):
        open_volume(folder)


def test_a_slice_in_no_place_is_refused(series, refused):
    folder = series()
    path = folder / "0004.dcm"
    content = path.read_bytes()
    assert content.count(b"-296.125") == 1
    path.write_bytes(content.replace(b"-296.125", b"nan     "))
    with refused(UnsupportedInput, "0004.dcm", "expected finite positions"):
        open_volume(folder)


def test_a_missing_slice_is_named_by_its_neighbours(series, refused):
    folder = series()
    (folder / "0003.dcm").unlink()
    with refused(UnreadableInput, "0004.dcm and 0002.dcm are 5 mm apart", "missing"):
        open_volume(folder)


def test_a_sheared_series_is_a_tilted_gantry_even_if_no_field_says_so(series, refused):
    folder = series()
    for number in range(1, 7):
        x, y, z = dcmread(folder / f"{number:04d}.dcm").ImagePositionPatient
        edit(folder / f"{number:04d}.dcm", ImagePositionPatient=[x, y + 0.3 * number, z])
    with refused(UnsupportedInput, "tilted"):
        open_volume(folder)


def beside(folder, name, **changes):
    """One more object among the slices: the first of them with other fields."""
    path = folder / name
    path.write_bytes((folder / "0001.dcm").read_bytes())
    edit(path, SeriesInstanceUID="9.8", SOPInstanceUID=f"9.8.{len(list(folder.iterdir()))}", **changes)
    if changes.get("PixelData", b"") is None:
        dataset = dcmread(path)
        del dataset.PixelData
        dataset.save_as(path)


def test_what_an_archive_puts_beside_the_slices_is_passed_over_and_counted(series, stored):
    folder = series()
    for name, modality in (("a.dcm", "SR"), ("b.dcm", "PR"), ("c.dcm", "RTSTRUCT"), ("d", "KO"), ("e.dcm", "SR")):
        beside(folder, name, Modality=modality, PixelData=None)
    beside(folder, "f.dcm", Modality="SEG", NumberOfFrames=1)
    beside(folder, "g.dcm", Modality="RTDOSE", BitsAllocated=32)
    beside(folder, "h.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    beside(folder, "i.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ImagePositionPatient=None)
    volume = open_volume(folder)
    assert np.array_equal(volume.voxels(0, 6), stored)
    assert volume.notes == (
        "Passed over beside the slices: KO with no pixel data (1), PR with no pixel data (1), RTSTRUCT with no pixel "
        "data (1), SR with no pixel data (2), dose distribution (1), localizer (1), picture of a screen (1), "
        "segmentation (1).",
    )


def test_a_series_by_itself_has_no_notes(series):
    assert open_volume(series()).notes == ()


def test_slices_without_preamble_and_file_meta_are_a_series(series, stored):
    folder = series()
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        bare = DicomBytesIO()
        bare.is_little_endian, bare.is_implicit_VR = True, False
        write_dataset(bare, dcmread(path))
        path.unlink()
        (folder / f"IM{number}").write_bytes(bare.getvalue())
    assert np.array_equal(open_volume(folder).voxels(0, 6), stored)


def test_slices_packed_by_rle_are_a_series(series, stored):
    folder = series()
    for path in folder.glob("*.dcm"):
        dataset = dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    assert np.array_equal(open_volume(folder).voxels(0, 6), stored)


def test_a_folder_without_a_series_is_refused(tmp_path, refused):
    with refused(UnreadableInput, "got 0"):
        open_volume(tmp_path)


def test_caps_hold_for_each_slice_of_a_series(series, refused):
    folder = series()
    with refused(InputTooLarge, "pixels"):
        open_volume(folder, Limits(max_pixels=100))
    with refused(InputTooLarge, "bytes"):
        open_volume(folder, Limits(max_bytes=100))


def test_scans_are_known_by_their_names(tmp_path):
    names = ("a.mhd", "a.MHA", "A.NII", "a.nii.gz", "a.nrrd", "a.raw", "a.png", "a.gz")
    assert [is_volume(tmp_path / name) for name in names] == [True] * 5 + [False] * 3


@pytest.mark.realdata
def test_a_real_series_opens_in_hounsfield_units(real_data):
    folder = real_data("lung-pet-ct-dx")
    image, volume = itk_series(folder), open_volume(folder)
    assert volume.grid.shape == (30, 512, 512)
    assert volume.grid.spacing == pytest.approx(image.GetSpacing())
    assert np.array_equal(volume.voxels(14, 17), sitk.GetArrayFromImage(image)[14:17])
