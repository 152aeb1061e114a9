"""Which connected pieces of a mask are kept: in images, in volumes, and in what is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from artifact_fixtures import manifest as made
from leanmed.errors import DataError, MissingExtraError
from leanmed.manifest import Input, Manifest
from leanmed.records import Mask, Record
from leanmed.tasks.recipes import check_recipe
from leanmed.tasks.segmentation import answer as part
from leanmed.tasks.segmentation import judge
from leanmed.tasks.segmentation.answer import MaskedImage
from leanmed.tasks.segmentation.pieces import largest_pieces
from leanmed.tasks.segmentation.scan import mask_scan
from leanmed.tasks.segmentation.training import Segmentation

TWO = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.uint8)  # a piece of two and one of one
LARGER = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.uint8)


def volumes(pieces: str) -> Manifest:
    about = Input(kind="intensities", dtype="float32", scaled="volume", side=32, slices=3, reduced=False)
    return made(task="segmentation", labels=("gland",), threshold=0.5, main_score="dice", input=about, pieces=pieces)


class Slices:
    """A volume of as many slices as there are masks."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.scores = np.stack(masks).astype(np.float32)

    def slice(self, z: int) -> np.ndarray:
        return self.scores[z]


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], np.uint8)
    assert largest_pieces(mask).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_each_label_keeps_one_piece_and_the_mask_given_stays() -> None:
    mask = np.array([[1, 0, 1, 1], [2, 2, 0, 0], [0, 0, 0, 2]], np.uint8)
    given = mask.copy()
    assert largest_pieces(mask).tolist() == [[0, 0, 1, 1], [2, 2, 0, 0], [0, 0, 0, 0]]
    assert np.array_equal(mask, given)


def test_nothing_leaves_nothing() -> None:
    assert not largest_pieces(np.zeros((3, 4, 5), np.uint8)).any()


def test_the_largest_piece_of_a_volume_need_not_be_the_largest_in_a_slice() -> None:
    """In the middle slice the piece on the right is smaller, and in the volume it is the larger one."""
    right = TWO * 0
    right[0, 4] = 1
    volume = np.stack([right, TWO, right])
    assert np.array_equal(largest_pieces(volume), np.stack([right] * 3))


def test_a_missing_scipy_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"keeping the largest piece of a mask needs .*leanmed\[ct\]"):
        largest_pieces(TWO)


def test_an_artifact_of_images_keeps_the_largest_of_each_and_does_so_anew_at_another_threshold() -> None:
    manifest = made(task="segmentation", labels=("gland",), threshold=0.5, main_score="dice", pieces="image")
    confidence = TWO * np.uint8(200)
    confidence[0, 2:4] = 90
    answer = part.decide([TWO, confidence], manifest)
    assert np.array_equal(answer.mask, LARGER)
    assert answer.pixels == {"gland": 2}
    joined = part.recalibrated(answer, 1.0, 0.3)  # what lies between them is marked too
    assert joined.pixels == {"gland": 5}
    line = answer.as_json()
    assert line["pieces"] == "image"
    assert part.answer_of(line) == answer


def test_an_artifact_of_volumes_keeps_one_piece_in_three_dimensions_and_all_of_a_slice() -> None:
    manifest = volumes("volume")
    sliced = part.decide([TWO, TWO * np.uint8(255)], manifest)
    assert np.array_equal(sliced.mask, TWO)
    right = TWO - LARGER
    found = mask_scan(Slices([right, TWO, right]), lambda pixels: pixels.astype(np.uint8), manifest)
    assert np.array_equal(found.mask, np.stack([right] * 3))
    everything = mask_scan(Slices([right, TWO, right]), lambda pixels: pixels.astype(np.uint8), volumes("all"))
    assert np.array_equal(everything.mask, np.stack([right, TWO, right]))


def test_a_volume_is_judged_by_its_largest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    right = TWO - LARGER
    monkeypatch.setattr(judge, "read_mask", lambda record, labels: right)
    records = [
        Record(f"{k}", Path("case.nii.gz"), Mask(()), "patient", frame=k, spacing=(3.0, 1.0, 1.0)) for k in range(3)
    ]

    def dice(pieces: str) -> float:
        answers = [MaskedImage.of(("gland",), mask, None, 0.5, pieces) for mask in (right, TWO, right)]
        return judge.point(judge.table_of(records, answers, ("gland",)))["dice"]

    assert dice("volume") == 1.0
    assert dice("all") == pytest.approx(2 * 3 / (5 + 3))


def test_a_line_with_other_words_for_pieces_is_refused() -> None:
    line = MaskedImage.of(("gland",), TWO, None, 0.5).as_json()
    assert "pieces" not in line
    with pytest.raises(DataError, match="`pieces` is one of all, image, volume, got 'some'"):
        part.answer_of(line | {"pieces": "some"})


@pytest.mark.parametrize(("kind", "pieces"), [("photograph", "image"), ("intensities", "volume")])
def test_a_recipe_says_what_is_kept(kind: str, pieces: str) -> None:
    model = {"backbone": "enet", "weights": "none", "side": 32}
    recipe = {
        "name": "tiny",
        "task": "segmentation",
        "model": model,
        "data": {"kind": kind},
        "segmenter": {"pieces": "largest"},
    }
    task = Segmentation(check_recipe(recipe, "here"), ("gland",))
    assert task.manifest()["pieces"] == pieces
    with_all = check_recipe(recipe | {"segmenter": {}}, "here")
    assert Segmentation(with_all, ("gland",)).manifest()["pieces"] == "all"
    manifest = Manifest.model_validate(volumes("all").model_dump() | {"pieces": pieces})
    assert "largest connected piece" in judge.describe(manifest)
