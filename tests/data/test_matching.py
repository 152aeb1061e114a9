"""Which file a table means by a name."""

from __future__ import annotations

import pytest

from leanmed.data.matching import match_names


def test_one_way_is_chosen_for_the_whole_column() -> None:
    """B/1.png is not there: it is not taken for A/1.png, though no other file is called so."""
    found = match_names(["A/1.png", "A/2.png", "B/1.png", "B/3.png"], ["A/1.png", "A/2.png", "B/3.png"])
    assert found.files == {"A/1.png": "A/1.png", "A/2.png": "A/2.png", "B/3.png": "B/3.png"}
    assert found.how == ""


def test_a_file_elsewhere_is_not_taken_for_one_that_is_missing() -> None:
    found = match_names(["A/1.png", "A/2.png", "B/3.png"], ["A/1.png", "A/2.png", "C/3.png"])
    assert found.files == {"A/1.png": "A/1.png", "A/2.png": "A/2.png"}


def test_a_table_of_one_site_is_not_laid_over_another() -> None:
    names, files = ([f"{site}/{k}.png" for k in range(9)] for site in ("siteA", "siteB"))
    assert match_names(names, files) == ({}, "")


def test_a_way_by_which_a_name_could_mean_two_files_is_passed_over() -> None:
    assert match_names(["1.png", "2.png"], ["A/1.png", "B/1.png", "A/2.png"]).files == {}
    assert match_names(["1.png", "2.png"], ["A/1.png", "B/1.png", "2.png"]).files == {"2.png": "2.png"}


def test_a_way_by_which_two_names_mean_one_file_is_passed_over() -> None:
    assert match_names(["x/1.png", "y/1.png", "x/2.png"], ["1.png", "2.png"]).files == {}


def test_what_looks_like_an_ending_is_none_unless_it_is_one_of_images() -> None:
    assert match_names(["1.2.840.5"], ["dicom/1.2.840.5.dcm"]).files == {"1.2.840.5": "dicom/1.2.840.5.dcm"}
    assert match_names(["scan1.5"], ["scan1.png"]).files == {}


@pytest.mark.parametrize("files", [[], ["c.png"]])
def test_what_is_not_there_is_not_found(files: list[str]) -> None:
    assert match_names(["a.png", "b"], files) == ({}, "")


def test_a_name_that_stands_twice_is_found_once() -> None:
    assert match_names(["a.png", "a.png"], ["a.png"]).files == {"a.png": "a.png"}


def test_names_of_endless_folders_do_not_take_forever() -> None:
    names = ["/".join("abcdefgh" * 50) + f"/{k}.png" for k in range(50)]
    assert match_names(names, [f"{k}.png" for k in range(50)]) == ({}, "")
