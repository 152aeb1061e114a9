from __future__ import annotations

import pytest
from PIL import Image

from leanmed import remote
from leanmed.errors import InputError
from leanmed.reading.folders import list_behind, list_folder, masks_among
from leanmed.reading.images import find_inputs, find_places

DICM = bytes(128) + b"DICM"


@pytest.fixture
def tree(tmp_path):
    for name in (
        "a.bmp",
        "b.JFIF",
        "c.jpe",
        "d.webp",
        "e.ima",
        "f.DICOM",
        "n.txt",
        ".g.png",
        ".git/h.png",
        "Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("IM0001", "1.2.840.55", "DICOMDIR"):
        (tmp_path / name).write_bytes(DICM)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    return tmp_path


def test_images_are_known_by_their_ending_and_dicom_by_its_mark(tree):
    names = [path.name for path in list_folder(tree).images]
    assert names == ["1.2.840.55", "IM0001", "a.bmp", "b.JFIF", "c.jpe", "d.webp", "e.ima", "f.DICOM"]


def test_all_others_are_counted_but_for_the_files_of_file_managers(tree):
    (note,) = list_folder(tree).notes()
    assert note.startswith(f"5 files were passed over in {tree}: ")
    for words in ("1 .txt", "1 without an ending", "2 hidden (such as ", "1 links to folders (such as link)"):
        assert words in note


def test_files_that_somebody_else_reads_are_not_counted(tree):
    (note,) = list_folder(tree).notes(lambda path: path.suffix == ".txt")
    assert note.startswith("4 files")
    assert ".txt" not in note


def test_a_folder_of_images_alone_needs_no_note(tree):
    (tree / "sub/a.png").touch()
    assert list_folder(tree / "sub").notes() == []


def test_inputs_come_with_what_was_passed_over(tree):
    found = find_inputs([str(tree), str(tree / "a.bmp")])
    assert len(found) == 8
    assert [note.partition(":")[0] for note in found.notes] == [f"5 files were passed over in {tree}"]
    assert find_inputs([str(tree / "*.txt")]).notes == ()


def test_folders_that_a_glob_matches_are_not_searched_and_that_is_said(tree):
    found = find_inputs([str(tree / "[as]*")])
    assert [path.name for path in found] == ["a.bmp"]
    assert found.notes[0].startswith("1 folder(s) that ")


def test_masks_are_known_by_their_images(tmp_path):
    names = ("a.png", "a_mask.png", "b_mask.png", "deep/a_mask.png", "c.jpg", "c_seg_02.png", "x.png", "x_labels.png")
    found = masks_among([tmp_path / name for name in names])
    assert {path.name for path in found} == {"a_mask.png", "c_seg_02.png", "x_labels.png"}
    assert tmp_path / "deep/a_mask.png" not in found


def test_what_an_earlier_prediction_wrote_is_no_input(tmp_path):
    for name in ("a.png", "out-files/a-mask.png", "out-montages/a.png", "mine-files/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "out.jsonl").write_text("{}\n")
    listing = list_folder(tmp_path)
    assert [path.name for path in listing.images] == ["a.png", "b.png"]
    assert sorted(path.name for path in listing.answers) == ["a-mask.png", "a.png"]
    assert "2 answers of earlier predictions" in listing.notes()[0]


def test_a_field_of_view_is_a_mask_of_its_image(tmp_path):
    for name in ("images/a.png", "fov/a.png", "fov/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    listing = list_folder(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in listing.images) == ["fov/other.png", "images/a.png"]
    assert [str(path.relative_to(tmp_path)) for path in listing.masks] == ["fov/a.png"]


@pytest.fixture
def place_of():
    upath = pytest.importorskip("upath", reason="needs the extra leanmed[ray]")
    return lambda path: upath.UPath(f"local://{path}")


def test_behind_a_url_images_are_known_by_their_ending_alone(tree, place_of):
    (tree / "link").unlink()
    (tree / "sub" / "ct.nii.gz").touch()
    (tree / "sub" / "a_mask.png").touch()
    (tree / "sub" / "a.png").touch()
    listing = list_behind(place_of(tree))
    assert [path.name for path in listing.images] == ["a.bmp", "b.JFIF", "c.jpe", "d.webp", "e.ima", "f.DICOM", "a.png"]
    assert [path.name for path in listing.masks] == ["a_mask.png"]
    assert {path.name for path in listing.hidden} == {".g.png", "h.png"}
    assert {path.name for path in listing.others} == {"IM0001", "1.2.840.55", "DICOMDIR", "n.txt", "ct.nii.gz"}
    assert "ct.nii.gz" in [path.name for path in list_behind(place_of(tree), scans=True).images]
    assert "8 files were passed over" in listing.notes()[0]


def test_behind_a_url_answers_of_earlier_predictions_are_passed_over(tmp_path, place_of):
    for name in ("a.png", "out.jsonl", "out-montages/a-0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_behind(place_of(tmp_path))
    assert [path.name for path in listing.images] == ["a.png"]
    assert [path.name for path in listing.answers] == ["a-0.png"]


def test_a_url_may_name_a_file_and_stands_beside_paths(tree, place_of, monkeypatch):
    monkeypatch.setitem(remote.SCHEMES, "local", "fsspec")
    url = str(place_of(tree / "n.txt"))
    found = find_places([url, str(tree / "a.bmp"), url])
    assert list(map(str, found)) == [url, str(tree / "a.bmp")]
    with pytest.raises(InputError, match="expected a URL of an image or of a folder of images"):
        find_places([str(place_of(tree / "sub"))])
