from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact_fixtures import manifest as made
from contracts.kind_contract import KindContract, groups_of
from leanmed.errors import DataError
from leanmed.manifest import Input, Manifest
from leanmed.records import Mask, Record
from leanmed.tasks.kind import Outputs
from leanmed.tasks.segmentation import answer as part
from leanmed.tasks.segmentation import judge
from leanmed.tasks.segmentation.answer import MaskedImage

SIZE = (24, 32)


def square(left: int, value: int = 1, top: int = 6) -> np.ndarray:
    """A square of eight pixels in an image of `SIZE`."""
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + 8, left : left + 8] = value
    return mask


def written(folder: Path, masks: list[np.ndarray], values: dict[str, tuple[int, ...]]) -> list[Record]:
    """Records of images with these masks, two of a group, half the groups of each site."""
    targets = []
    for k, mask in enumerate(masks):
        Image.new("RGB", SIZE[::-1]).save(folder / f"{k:02}.png")
        Image.fromarray(mask).save(folder / f"mask-{k:02}.png")
        targets.append(Mask((folder / f"mask-{k:02}.png",), values))
    return [Record(r.id, folder / r.image, r.target, r.group, r.site) for r in groups_of(targets)]


def marked(left: int, sure: int = 230) -> Outputs:
    """A square marked at a column, with a rim that does not reach the threshold."""
    confidence = square(left) * np.uint8(sure)
    confidence[5, left : left + 8] = 90
    return [(confidence >= 128).astype(np.uint8), confidence]


class TestOneLabel(KindContract):
    name = "segmentation"
    wrong_labels = ("a", "b")

    @pytest.fixture
    def manifest(self) -> Manifest:
        about = Input(side=32, slices=3, reduced=False)
        return made(task="segmentation", labels=("vessel",), threshold=0.5, main_score="dice", input=about)

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [marked(10 + k % 3) for k in range(20)]

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return [marked(10 + k % 3 + 3 * (k % 4 == 0)) for k in range(20)]

    @pytest.fixture
    def records(self, tmp_path: Path) -> list[Record]:
        return written(tmp_path, [square(10 + k % 2) for k in range(20)], {"vessel": ()})

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)]

    def test_a_pixel_is_marked_from_the_threshold_on(self, kind, manifest) -> None:
        confidence = np.array([[0, 127, 128, 255]], np.uint8)
        outputs = [np.zeros_like(confidence), confidence]
        assert kind.answer.decide(outputs, manifest).mask.tolist() == [[0, 0, 1, 1]]
        other = manifest.model_copy(update={"threshold": 1.0})
        assert kind.answer.decide(outputs, other).mask.tolist() == [[0, 0, 0, 1]]

    def test_calibration_sees_pixels_of_all_columns(self, kind, tmp_path: Path) -> None:
        confidence = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
        Image.fromarray(confidence).save(tmp_path / "a.png")
        Image.fromarray((confidence > 127).astype(np.uint8)).save(tmp_path / "mask.png")
        record = Record("a", tmp_path / "a.png", Mask((tmp_path / "mask.png",), {"vessel": ()}), "a")
        seen = kind.judge.evidence(
            [record], [MaskedImage.of(("vessel",), confidence * 0, confidence, 0.5)], ("vessel",)
        )
        assert np.unique(seen.logits).size > 250
        assert seen.truth.mean() == pytest.approx(0.5, abs=0.03)

    def test_calibration_sees_the_pixels_of_the_field_of_view_alone(self, kind, tmp_path: Path) -> None:
        (record,) = written(tmp_path, [square(10)], {"vessel": ()})
        fov = np.zeros(SIZE, np.uint8)
        fov[:, 10:] = 1
        Image.fromarray(fov).save(tmp_path / "fov.png")
        within = Record(record.id, record.image, Mask(record.mask.files, {"vessel": ()}, tmp_path / "fov.png"), "g")
        answer = MaskedImage.of(("vessel",), square(10), square(10) * np.uint8(255), 0.5)
        seen = kind.judge.evidence([within], [answer], ("vessel",))
        assert len(seen.truth) == 24 * 22
        assert int(seen.truth.sum()) == 64


class TestTwoLabels(KindContract):
    name = "segmentation"
    wrong_labels = ()

    @pytest.fixture
    def manifest(self) -> Manifest:
        about = Input(kind="intensities", dtype="float32", scaled="volume", side=32, slices=3, reduced=False)
        return made(task="segmentation", labels=("gland", "zone"), threshold=None, main_score="dice", input=about)

    def both(self, left: int, right: int) -> Outputs:
        mask = square(left) + square(right, 2, 15)
        return [mask, np.where(mask > 0, 200, 240).astype(np.uint8)]

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [self.both(4, 20 + k % 2) for k in range(20)]

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return [self.both(4 + 4 * (k % 3 == 0), 20 + k % 2) for k in range(20)]

    @pytest.fixture
    def records(self, tmp_path: Path) -> list[Record]:
        masks = [3 * square(4) + square(20, 7, 15) for _ in range(20)]
        return written(tmp_path, masks, {"gland": (3,), "zone": (7,)})

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.zeros(SIZE, np.uint8), np.full(SIZE, 255, np.uint8)]

    def test_dice_of_each_label_is_told(self, kind, records, answers, manifest) -> None:
        found = kind.judge.point(self.table(kind, records, answers, manifest))
        assert found["dice:gland"] == 1
        assert found["dice:zone"] == pytest.approx((1 + 14 / 16) / 2)
        assert found["dice"] == pytest.approx((found["dice:gland"] + found["dice:zone"]) / 2)


def test_slices_of_a_volume_are_one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slices, marked right in two: 2 x 2 of 3 + 2 pixels."""
    truth = {k: np.array([[1, 0]], np.uint8) for k in range(3)}
    monkeypatch.setattr(judge, "read_mask", lambda record, labels: truth[record.frame])
    records = [
        Record(f"{k}", Path("case.nii.gz"), Mask(()), "patient", frame=k, spacing=(3.0, 1.0, 1.0)) for k in (2, 0, 1)
    ]
    answers = [MaskedImage.of(("object",), np.array([[int(k != 1), 0]], np.uint8), None, 0.5) for k in (2, 0, 1)]
    table = judge.table_of(records, answers, ("object",))
    assert table.group.tolist() == ["patient"]
    assert judge.point(table)["dice"] == pytest.approx(4 / 5)
    assert records[table.first[0]].frame == 0


def test_a_slice_that_is_missing_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices 0, 1 and 4: what is marked in the last lies three slices, and not one, from the truth in the second."""
    truth = {0: np.zeros((1, 2), np.uint8), 1: np.array([[1, 0]], np.uint8), 4: np.zeros((1, 2), np.uint8)}
    monkeypatch.setattr(judge, "read_mask", lambda record, labels: truth[record.frame])
    records = [
        Record(f"{k}", Path("case.nii.gz"), Mask(()), "patient", frame=k, spacing=(3.0, 1.0, 1.0)) for k in truth
    ]
    answers = [MaskedImage.of(("object",), np.array([[int(k == 4), 0]], np.uint8), None, 0.5) for k in truth]
    found = judge.point(judge.table_of(records, answers, ("object",)))
    assert found["dice"] == 0
    assert found["hd95"] == found["asd"] == 9.0


def test_an_answer_of_another_size_than_the_image_is_refused(tmp_path: Path) -> None:
    (record,) = written(tmp_path, [square(10)], {"vessel": ()})
    answer = MaskedImage.of(("vessel",), np.zeros((24, 31), np.uint8), None, 0.5)
    with pytest.raises(DataError, match=r"an answer of the image's size \(24, 32\), got \(24, 31\)"):
        judge.table_of([record], [answer], ("vessel",))


def test_a_mask_with_another_label_than_the_model_knows_is_refused() -> None:
    record = Record("a", Path("a.png"), Mask((), {"nerve": ()}), "g")
    with pytest.raises(DataError, match="a mask of vessel, got nerve"):
        judge.check("", [record], ("vessel",))


def test_further_labels_of_a_mask_are_background_to_a_model_of_one() -> None:
    record = Record("a", Path("a.png"), Mask((), {"nerve": (1,), "vessel": (2,)}), "g")
    judge.check("", [record], ("nerve",))
    with pytest.raises(DataError, match="a mask of nerve, bone, got nerve, vessel"):
        judge.check("", [record], ("nerve", "bone"))


def test_one_level_of_rounding_is_no_difference_and_more_is() -> None:
    one = [np.zeros((2, 2), np.uint8), np.full((2, 2), 10, np.uint8)]
    assert part.apart(one, [one[0], np.full((2, 2), 11, np.uint8)]) == 0
    assert part.apart(one, [one[0], np.array([[10, 10], [10, 61]], np.uint8)]) == pytest.approx(50 / 255 / 4)


def test_two_labels_differ_by_what_both_are_surer_of_than_one_can_be() -> None:
    mask = np.full((1, 1), 1, np.uint8)
    one, other = [mask, np.full((1, 1), 204, np.uint8)], [mask + 1, np.full((1, 1), 204, np.uint8)]
    assert part.apart(one, other) == pytest.approx((204 + 204 - 255 - 1) / 255)
    tie = [mask, np.full((1, 1), 120, np.uint8)], [mask + 1, np.full((1, 1), 120, np.uint8)]
    assert part.apart(*tie) == 0


def test_a_mask_follows_axes_that_are_swapped_and_reversed() -> None:
    answer = MaskedImage.of(("a",), np.array([[1, 0, 0], [0, 0, 0]], np.uint8), None, 0.5)
    turned = answer.placed(lambda points: np.stack([2 - points[:, 1], points[:, 0]], axis=1))
    assert turned.mask.tolist() == [[0, 1], [0, 0], [0, 0]]


def test_the_mask_of_an_answer_is_a_png_of_its_values() -> None:
    mask = square(3)
    suffix, content = MaskedImage.of(("a",), mask, None, 0.5).file()
    assert suffix == ".png"
    assert np.array_equal(part.unpacked(content), mask)


def test_a_png_that_declares_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="at most 100 pixels, got 32 x 24"):
        part.unpacked(part.packed(square(3)))


def test_a_model_gains_nothing_by_missing_the_case_it_is_worst_at(tmp_path: Path) -> None:
    """In the second case the mask is 4 pixels off; whoever leaves it out has no distance there, and no better one."""
    records = written(tmp_path, [square(10), square(10)], {"vessel": ()})
    shifted = [MaskedImage.of(("vessel",), mask, None, 0.5) for mask in (square(11), square(14))]
    missing = [shifted[0], MaskedImage.of(("vessel",), square(10) * 0, None, 0.5)]
    before, after = (judge.table_of(records, answers, ("vessel",)) for answers in (shifted, missing))
    assert judge.point(after)["hd95"] < judge.point(before)["hd95"]
    change = judge.paired(before, after, resamples=100)
    assert change["hd95"].value == 0
    assert change["dice"].value < 0


def test_the_worst_of_each_group_the_median_and_the_best_are_shown(tmp_path: Path) -> None:
    """Twenty cases, two of a group, each better than the one before: the median is the worst of its group already."""
    records = written(tmp_path, [square(4) for _ in range(20)], {"vessel": ()})
    answers = [MaskedImage.of(("vessel",), square(4), None, 0.5) for _ in records]
    table = judge.table_of(records, answers, ("vessel",))
    ranked = replace(table, dice=np.linspace(0, 1, 20)[:, None])
    found = judge.mistakes(ranked, records, answers)
    assert [mistake.id for mistake in found] == [*(f"{k:02}.png" for k in range(0, 20, 2)), "19.png"]
    assert [mistake.answered for mistake in found[-2:]] == ["Dice 0.947", "Dice 1.000, the best case"]
    split = np.arange(20) // 2 / 20 + np.arange(20) % 2 / 2  # the better of each group is above the worse of all others
    found = judge.mistakes(replace(table, dice=split[:, None]), records, answers)
    assert [(mistake.id, mistake.answered.partition(", ")[2]) for mistake in found[-2:]] == [
        ("01.png", "the median case"),
        ("19.png", "the best case"),
    ]
