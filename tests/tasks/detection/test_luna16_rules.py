from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from leanmed.errors import DataError
from leanmed.tasks.detection.luna16_rules import NO_POINTS, Points, cpm, match_scans, read_points

RATES = [0.125, 0.25, 0.5, 1, 2, 4, 8]


def points(*rows: tuple[str, float, float]) -> Points:
    """(scan, x, value) each, y and z being 0."""
    scans, x, values = zip(*rows, strict=True)
    world = np.stack([np.array(x, float), np.zeros(len(x)), np.zeros(len(x))], axis=1)
    return Points(np.array(scans), world, np.array(values, float))


NODULES = points(("a", 0, 10), ("a", 100, 6), ("b", 0, 8))


def test_a_hit_lies_strictly_within_half_the_diameter() -> None:
    marks = match_scans(["a"], points(("a", 4.9, 0.9), ("a", 103, 0.8)), NODULES)
    assert marks.finding.tolist() == [0, -1]  # 3 mm from a nodule of 6 mm is no hit


def test_a_second_hit_counts_neither_way() -> None:
    marks = match_scans(["a"], points(("a", 1, 0.3), ("a", -2, 0.7), ("a", 50, 0.5)), NODULES)
    assert marks.score.tolist() == [0.7, 0.5]
    assert marks.finding.tolist() == [0, -1]


def test_a_candidate_on_an_excluded_finding_counts_neither_way() -> None:
    """Of unknown diameter (-1), it is taken to have 10 mm."""
    excluded = points(("a", 50, 4), ("b", 50, -1))
    candidates = points(("a", 51, 0.9), ("a", 53, 0.8), ("b", 54.9, 0.7), ("b", 55, 0.6))
    assert match_scans(["a", "b"], candidates, NODULES, excluded).score.tolist() == [0.8, 0.6]


def test_a_candidate_between_two_nodules_finds_both() -> None:
    close = points(("a", 0, 10), ("a", 4, 10))
    assert match_scans(["a"], points(("a", 2, 0.9)), close).finding.tolist() == [0, 1]


def test_scans_without_candidates_or_nodules_count() -> None:
    """One of two nodules found at no false positive; the wrong mark lies in a scan without nodules."""
    candidates = points(("b", 0, 0.9), ("c", 0, 0.5))
    nodules = points(("a", 0, 10), ("b", 0, 8))
    found = cpm(["a", "b", "c", "d"], candidates, nodules, resamples=20)
    assert found["cpm"].value == 0.5
    assert found["cpm"].n == 4


def test_points_of_scans_not_listed_are_ignored() -> None:
    marks = match_scans(["b"], points(("a", 0, 0.9), ("b", 0, 0.8), ("x", 0, 1)), NODULES)
    assert marks.score.tolist() == [0.8]
    assert marks.home.tolist() == [0]


def test_of_more_than_a_hundred_candidates_the_best_count() -> None:
    crowd = points(*[("a", 1000 + k, k / 200) for k in range(150)])
    assert match_scans(["a"], crowd, NODULES).score.min() == 50 / 200


def test_the_metric_worked_by_hand() -> None:
    """Two scans, four nodules. Scores .9 hit, .8 wrong, .7 hit, .6 wrong, .5 wrong, .4 hit: 3 of 4 at the end.

    Sensitivity is 1/4 up to half a false positive per scan, where .8 enters and then .7 finds the second nodule;
    it stays 2/4 until 1.5, where the third is found.
    """
    nodules = points(("a", 0, 10), ("a", 100, 10), ("b", 0, 10), ("b", 100, 10))
    hits = [("a", 0, 0.9), ("a", 100, 0.7), ("b", 0, 0.4)]
    wrong = [("a", 50, 0.8), ("b", 50, 0.6), ("b", 60, 0.5)]
    found = cpm(["a", "b"], points(*hits, *wrong), nodules, resamples=20)
    expected = [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4, 3 / 4]
    assert [found[f"sensitivity@{rate:g}"].value for rate in RATES] == expected
    assert found["cpm"].value == pytest.approx(sum(expected) / 7)


def reference_cpm(scans: list[str], candidates: Points, nodules: Points, excluded: Points) -> float:
    """The published definition told step by step, with scikit-learn's ROC curve rescaled to an FROC curve."""
    truth, probability, wrong, detected = [], [], 0, 0
    for scan in scans:
        left = {i for i in range(len(candidates.scan)) if candidates.scan[i] == scan}
        marked = set(left)
        for table, counts in ((nodules, True), (excluded, False)):
            for k in np.flatnonzero(table.scan == scan):
                apart = {i: np.linalg.norm(candidates.world[i] - table.world[k]) for i in marked}
                hits = {i for i in marked if apart[i] < table.value[k] / 2}
                left -= hits
                if hits and counts:
                    truth.append(1)
                    probability.append(max(candidates.value[i] for i in hits))
                    detected += 1
        truth += [0] * len(left)
        probability += [candidates.value[i] for i in left]
        wrong += len(left)
    false_rate, true_rate, _ = roc_curve(truth, probability)
    return float(
        np.interp(
            RATES, false_rate * wrong / len(scans), true_rate * detected / np.isin(nodules.scan, scans).sum()
        ).mean()
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_metric_is_that_of_the_published_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scans = [f"s{i}" for i in range(12)]

    def scatter(count: int, value: np.ndarray) -> Points:
        return Points(rng.choice(scans[:-2], count), rng.uniform(0, 30, (count, 3)), value)

    nodules, excluded = scatter(15, rng.uniform(6, 14, 15)), scatter(8, rng.uniform(6, 14, 8))
    candidates = scatter(220, rng.integers(0, 50, 220) / 50)
    found = cpm(scans, candidates, nodules, excluded, resamples=20)
    assert 0 < found["cpm"].value < 1
    assert found["cpm"].value == pytest.approx(reference_cpm(scans, candidates, nodules, excluded), abs=1e-12)


def test_tables_are_read_as_luna16_writes_them(tmp_path: Path, refused) -> None:
    path = tmp_path / "annotations.csv"
    path.write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-128.7,-175.3,-298.4,5.65\n")
    found = read_points(path, "diameter_mm")
    assert found.scan.tolist() == ["1.2.3"]
    assert found.world.tolist() == [[-128.7, -175.3, -298.4]]
    assert found.value.tolist() == [5.65]
    with refused(DataError, "annotations.csv", "seriesuid", "'probability'"):
        read_points(path, "probability")


def test_scans_must_be_there_and_different(refused) -> None:
    for scans in ([], ["a", "a"]):
        with refused(DataError, "expected one or more different scans", f"got {len(scans)}"):
            match_scans(scans, NO_POINTS, NODULES)


def test_coordinates_that_are_no_numbers_are_refused(refused) -> None:
    with refused(DataError, "finite numbers"):
        points(("a", np.nan, 1))


@pytest.mark.realdata
def test_the_real_annotations_are_all_read(real_data) -> None:
    root = real_data("luna16-reference")
    assert len(read_points(root / "annotations.csv", "diameter_mm").scan) == 1186
