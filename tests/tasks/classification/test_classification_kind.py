from __future__ import annotations

import numpy as np
import pytest

from artifact_fixtures import manifest as made
from contracts.kind_contract import KindContract, groups_of
from leanmed.manifest import Manifest
from leanmed.records import Record
from leanmed.tasks.kind import Outputs

POSITIVE = [(3 * k) % 20 / 20 + 0.01 for k in range(20)]
"""Probabilities of the second label, all different."""


def answered(positive: list[float]) -> list[Outputs]:
    return [[np.float32([1 - p, p])] for p in positive]


class TestLabels(KindContract):
    name = "classification"
    wrong_labels = ("one",)

    @pytest.fixture
    def manifest(self) -> Manifest:
        return made()

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return answered(POSITIVE)

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return answered([1 - p if k % 3 == 0 else p for k, p in enumerate(POSITIVE)])

    @pytest.fixture
    def records(self) -> list[Record]:
        """Every eighth truth is not what the probability says."""
        return groups_of([("non-anemic", "anemic")[(p > 0.5) != (k % 8 == 7)] for k, p in enumerate(POSITIVE)])

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.float32([1, 0])]

    def test_of_two_labels_the_probability_of_the_positive_one_is_explained(self, kind, manifest) -> None:
        target = kind.explained([np.float32([0.75, 0.25])], manifest)
        assert target.name == f"Probability of {manifest.labels[1]}"
        assert target.score([np.float32([0.5, 0.5])]) == 0.5


class TestThreeLabels(TestLabels):
    wrong_labels = ("a", "b", "c")  # with a threshold

    @pytest.fixture
    def manifest(self) -> Manifest:
        return made(labels=("non-anemic", "anemic", "unclear"), threshold=None)

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        return [[np.float32([0.9 * (1 - p), 0.9 * p, 0.1])] for p in POSITIVE]

    @pytest.fixture
    def others(self) -> list[Outputs]:
        return [
            [np.float32([0.9 * p, 0.9 * (1 - p), 0.1]) if k % 3 == 0 else own[0]]
            for k, (p, own) in enumerate(
                zip(POSITIVE, [[np.float32([0.9 * (1 - p), 0.9 * p, 0.1])] for p in POSITIVE], strict=True)
            )
        ]

    @pytest.fixture
    def records(self) -> list[Record]:
        labels = ("non-anemic", "anemic")
        targets = [labels[(p > 0.5) != (k % 8 == 7)] for k, p in enumerate(POSITIVE)]
        return groups_of(["unclear" if k in (4, 14) else target for k, target in enumerate(targets)])

    @pytest.fixture
    def empty(self) -> Outputs:
        return [np.float32([1, 0, 0])]

    def test_of_two_labels_the_probability_of_the_positive_one_is_explained(self, kind, manifest) -> None:
        """Of more it is that of the answer to the whole image."""
        target = kind.explained([np.float32([0.25, 0.125, 0.625])], manifest)
        assert target.name == "Probability of unclear"
        assert target.score([np.float32([0.5, 0.25, 0.25])]) == 0.25
