from __future__ import annotations

import numpy as np
import pytest

from artifact_fixtures import manifest as made
from contracts.kind_contract import KindContract, groups_of
from leanmed.manifest import Input, Manifest
from leanmed.records import Boxes, Record
from leanmed.tasks.kind import Outputs

OBJECT, ELSEWHERE = (4.0, 5.0, 12.0, 14.0), (20.0, 2.0, 28.0, 9.0)


def found(k: int, *, misses: int) -> Outputs:
    """The object of image k but for every so many, and an alarm elsewhere that is sure in every fifth."""
    hit = [OBJECT] * bool(k % misses)
    scores = [0.6 + k / 100] * len(hit) + [0.55 if k % 5 == 0 else 0.2]
    return [np.float32([*hit, ELSEWHERE]), np.float32(scores)]


class TestBoxes(KindContract):
    name = "detection"
    wrong_labels = ("a", "b")

    @pytest.fixture
    def manifest(self) -> Manifest:
        about = Input(kind="slice", side=32, slices=1, reduced=False)
        return made(task="detection", labels=("nodule",), threshold=0.5, main_score="ap50", input=about)

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [found(k, misses=7) for k in range(20)]

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return [found(k, misses=3) for k in range(20)]

    @pytest.fixture
    def records(self) -> list[Record]:
        return groups_of([Boxes((OBJECT,), (8.0,)) if k != 13 else Boxes() for k in range(20)])

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.empty((0, 4), np.float32), np.empty(0, np.float32)]

    def test_the_score_that_is_explained_is_that_of_the_box_most_like_the_best_one(self, kind, manifest) -> None:
        """The best box is 10 by 10; moved by half its width it overlaps with a third of both."""
        best = (0.0, 0.0, 10.0, 10.0)
        whole = [np.float32([best, (40, 40, 50, 50)]), np.float32([0.75, 0.5])]
        target = kind.explained(whole, manifest)
        assert target.name == "Score of the best box (nodule)"
        assert target.score(whole) == 0.75
        moved = [np.float32([(5, 0, 15, 10), (40, 40, 50, 50)]), np.float32([0.6, 0.9])]
        assert target.score(moved) == pytest.approx(0.2)
        assert target.score([np.empty((0, 4), np.float32), np.empty(0, np.float32)]) == 0

    def test_without_a_box_there_is_nothing_to_explain(self, kind, manifest, empty, outputs) -> None:
        assert kind.explained(empty, manifest).score(outputs[1]) == 0

    def test_what_lies_below_the_threshold_is_kept_apart_from_what_is_answered(self, answers) -> None:
        assert answers[1].boxes == (OBJECT,)
        assert answers[1].faint_boxes == (ELSEWHERE,)
        assert answers[1].faint_scores == (0.2,)
        assert answers[1].as_json()["boxes"] == [list(OBJECT)]
        assert answers[1].cells()["count"] == 1
