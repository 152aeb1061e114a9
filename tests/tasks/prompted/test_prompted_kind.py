from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifact_fixtures import manifest as made
from contracts.kind_contract import GREY, KindContract, groups_of
from leanmed.errors import DataError
from leanmed.manifest import Input, Manifest
from leanmed.prompts import BOTTOM_RIGHT, INSIDE, OUTSIDE, TOP_LEFT, Prompts
from leanmed.records import Mask, Record
from leanmed.tasks.kind import Outputs
from leanmed.tasks.prompted import answer as part
from leanmed.tasks.prompted.answer import PromptedMask

SIZE = (24, 32)


def square(left: int) -> np.ndarray:
    """A square of eight pixels in an image of `SIZE`."""
    mask = np.zeros(SIZE, np.uint8)
    mask[6:14, left : left + 8] = 1
    return mask


def pointed(left: int) -> Outputs:
    """A square that is marked at a column and was pointed at in its middle."""
    confidence = square(left) * np.uint8(230)
    confidence[5, left : left + 8] = 90
    point = np.array([[left + 4, 10]], np.float32)
    return [
        (confidence >= 128).astype(np.uint8),
        confidence,
        np.array([0.75], np.float32),
        point,
        np.array([INSIDE], np.int64),
    ]


class TestPrompted(KindContract):
    name = "prompted"
    wrong_labels = ("a", "b")

    @pytest.fixture
    def manifest(self) -> Manifest:
        about = Input(side=32, slices=3, reduced=False)
        return made(task="prompted", labels=("nerve",), threshold=0.5, main_score="dice", input=about)

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [pointed(10 + k % 3) for k in range(20)]

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return [pointed(10 + k % 3 + 3 * (k % 4 == 0)) for k in range(20)]

    @pytest.fixture
    def records(self, tmp_path: Path) -> list[Record]:
        targets = []
        for k in range(20):
            Image.new("RGB", SIZE[::-1]).save(tmp_path / f"{k:02}.png")
            Image.fromarray(square(10 + k % 2)).save(tmp_path / f"mask-{k:02}.png")
            targets.append(Mask((tmp_path / f"mask-{k:02}.png",), {"nerve": ()}))
        return [Record(r.id, tmp_path / r.image, r.target, r.group, r.site) for r in groups_of(targets)]

    @pytest.fixture
    def empty(self) -> Outputs:
        blank = np.zeros(SIZE, np.uint8)
        return [blank, blank, np.zeros(1, np.float32), np.zeros((0, 2), np.float32), np.zeros(0, np.int64)]

    def test_the_points_are_in_the_line_and_drawn_as_crosses(self, answers: list[PromptedMask]) -> None:
        assert answers[0].as_json()["pointed"] == [[14.0, 10.0, INSIDE]]
        assert answers[0].as_json()["score"] == 0.75
        drawn = answers[0].draw(GREY)
        assert (drawn[10, 13:16] == (255, 255, 0)).all()

    def test_of_several_labels_one_is_to_be_chosen(self, kind, records) -> None:
        with pytest.raises(DataError, match="one label to point at, got nerve, vessel"):
            kind.judge.check("", records, ("nerve", "vessel"))

    def test_the_page_says_who_pointed(self, kind, records, answers, manifest) -> None:
        remarks = kind.judge.remarks(self.table(kind, records, answers, manifest))
        assert any("own localiser pointed" in remark for remark in remarks)


def test_without_prompts_the_localiser_points_in_shares_of_the_longer_side() -> None:
    asked: dict[str, dict[str, np.ndarray]] = {}

    def run(name, feeds):
        asked[name] = dict(feeds)
        return [np.array([0.25, 0.5], np.float32)] if name == "localiser" else ["mask", "confidence", "score"]

    found = part.finish(["embedding", "image"], (30, 40), None, run)
    assert asked["localiser"] == {"image": "image"}
    assert asked["decoder"]["points"].tolist() == [[10.0, 20.0]]
    assert asked["decoder"]["labels"].tolist() == [INSIDE]
    assert asked["decoder"]["canvas"].shape == (30, 40)
    assert found[:3] == ["mask", "confidence", "score"]


def test_points_and_a_box_reach_the_decoder_together_and_the_localiser_is_not_asked() -> None:
    asked: dict[str, dict[str, np.ndarray]] = {}

    def run(name, feeds):
        asked[name] = dict(feeds)
        return ["mask", "confidence", "score"]

    prompts = Prompts(((1.0, 2.0), (3.0, 4.0)), (INSIDE, OUTSIDE), (0.0, 1.0, 8.0, 9.0))
    part.finish(["embedding", "image"], (30, 40), prompts, run)
    assert set(asked) == {"decoder"}
    assert asked["decoder"]["points"].tolist() == [[1, 2], [3, 4], [0, 1], [8, 9]]
    assert asked["decoder"]["labels"].tolist() == [INSIDE, OUTSIDE, TOP_LEFT, BOTTOM_RIGHT]


@pytest.mark.parametrize(
    "line",
    [{"pointed": [[1, 2]]}, {"pointed": [[1, 2, 4]]}, {"pointed": [[math.inf, 2, 1]]}, {"score": 1.5}, {"score": "x"}],
)
def test_a_line_with_unsound_prompts_is_refused(line, tmp_path: Path) -> None:
    mask = PromptedMask.about(
        part.masks.MaskedImage.of(("nerve",), square(4), square(4) * np.uint8(255), 0.5), [(1, 2)], [INSIDE], 0.5
    )
    assert part.answer_of(mask.as_json()) == mask
    with pytest.raises(DataError, match="line"):
        part.answer_of(mask.as_json() | line)
