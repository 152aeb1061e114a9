"""One temperature and one threshold from what all folds answered together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanmed.errors import RunError
from leanmed.evaluation.runs import evaluate_run, fold_answers, run_answers
from leanmed.files import write_json
from leanmed.records import Boxes, Record
from leanmed.runs import CALIBRATION, FOLD, HISTORY, RUN, SPLITS, Run, write_csv
from leanmed.runtime.lines import line_of, write_lines
from leanmed.tasks.answers import Detections, Prediction
from leanmed.tasks.recipes import check_recipe
from leanmed.training.calibrate import calibrate

LABELS = ("no", "yes")
FOLDS = 3


def made_run(path: Path, logits: Any, truth: Any, sharpness: float, *, per_group: int = 1, **recipe: Any) -> Run:
    """A run of three folds whose answers are those logits times a sharpness; image k is tested in fold k % 3, and is a
    validation image of the fold before it."""
    count = len(truth)
    facts = {"labels": LABELS, "folds": FOLDS, "protocol": "grouped", "leak": None, "data": ".", "data_sha256": "0"}
    settings = check_recipe({"name": "made", "evaluation": {"resamples": 100}, **recipe}, "a test")
    run = Run(path, settings, facts | {"grouping": []})
    parts = ["train", "validation", "test"]
    write_json(path / RUN, run.facts)
    write_csv(
        path / SPLITS,
        [
            {"image": str(k), "label": LABELS[truth[k]], "group": f"g{k // per_group}"}
            | {f"fold_{f}": parts[(k // per_group + 2 - f) % 3] for f in range(FOLDS)}
            for k in range(count)
        ],
    )
    for fold in range(FOLDS):
        for part in ("validation", "test"):
            chosen = [k for k in range(count) if parts[(k // per_group + 2 - fold) % 3] == part]
            lines = [line_of(str(k), said(sharpness * logits[k])) for k in chosen]
            write_lines(run.uncalibrated(fold, part), lines)
        about = {"temperature": 1.0, "threshold": 0.0, "main_score": "auc"}
        facts = {"fold": fold, "best_epoch": 0, "validation": {"loss": 1.0, "auc": 0.5}, "manifest": about}
        write_json(run.folder(fold) / FOLD, facts)
        write_csv(run.folder(fold) / HISTORY, [{"epoch": 0, "train_loss": 1, "val_loss": 1, "val_f1": 0.5}])
    return run


def said(logit: float) -> Prediction:
    p = 1 / (1 + np.exp(-logit))
    return Prediction("yes", {"no": 1 - p, "yes": p}, 0.0)


def records_of(truth: Any, per_group: int = 1) -> list[Record]:
    return [Record(str(k), Path(f"{k}.png"), LABELS[t], f"g{k // per_group}") for k, t in enumerate(truth)]


def drawn(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Logits, and truths drawn with exactly their probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    return logits, (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(int)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_probabilities_that_are_too_sharp_or_too_dull_are_mended_by_all_folds_together(
    tmp_path: Path, sharpness: float
) -> None:
    logits, truth = drawn(1500)
    run = made_run(tmp_path, logits, truth, sharpness)
    sentence = calibrate(run, records_of(truth))
    found = run.calibration
    assert found["value"] == pytest.approx(sharpness, rel=0.12)
    assert found["low"] < sharpness < found["high"]
    assert (found["answers"], found["groups"]) == (1500, 1500)
    assert sentence.startswith("Calibration: temperature ")
    for fold, own in enumerate(found["folds"]):
        assert own["answers"] == 1000, "the images that the fold is tested on have no say"
        assert run.fold(fold).facts["manifest"]["temperature"] == own["value"]
        for name, answer in fold_answers(run, run.fold(fold), "test"):
            wanted = 1 / (1 + np.exp(-sharpness * logits[int(name)] / own["value"]))
            assert answer.as_json()["probability"] == pytest.approx(wanted, abs=1e-9)
            assert answer.as_json()["label"] == LABELS[int(wanted >= own["threshold"])]


def test_a_test_image_cannot_move_its_own_temperature(tmp_path: Path) -> None:
    logits, truth = drawn(300)
    run = made_run(tmp_path / "a", logits, truth, 1.0)
    calibrate(run, records_of(truth))
    turned = np.where(np.arange(300) % 3 == 1, 1 - truth, truth)  # the truths of what fold 1 is tested on
    other = made_run(tmp_path / "b", logits, turned, 1.0)
    calibrate(other, records_of(turned))
    one, two = run.calibration["folds"], other.calibration["folds"]
    assert one[1] == two[1]
    assert one[0] != two[0]


def test_few_groups_get_no_temperature_and_are_told_of(tmp_path: Path) -> None:
    logits, truth = drawn(60)
    run = made_run(tmp_path, logits, truth, 5.0, per_group=6)
    sentence = calibrate(run, records_of(truth, per_group=6))
    assert run.calibration["value"] == 1.0
    assert "10 groups are too few to fit a temperature, which needs 20" in sentence
    assert 0 < run.calibration["threshold"] < 1


def test_perfectly_separated_answers_do_not_drive_the_temperature_to_a_bound(tmp_path: Path) -> None:
    truth = np.arange(90) // 3 % 2
    run = made_run(tmp_path, np.where(truth, 1.0, -1.0), truth, 1.0)
    calibrate(run, records_of(truth))
    assert 0.1 < run.calibration["value"] < 1


def test_answers_that_are_all_wrong_teach_no_temperature_and_say_so(tmp_path: Path) -> None:
    logits, truth = drawn(90)
    run = made_run(tmp_path, logits, np.zeros_like(truth), 1.0)
    sentence = calibrate(run, records_of(np.zeros_like(truth)))
    assert sentence == "The probabilities are not calibrated: the answers are all right or all wrong."
    assert (run.calibration["value"], run.calibration["threshold"], run.calibration["groups"]) == (1.0, 0.5, 90)


def test_the_sentence_tells_the_temperatures_of_single_folds(tmp_path: Path) -> None:
    logits, truth = drawn(300)
    run = made_run(tmp_path, logits, truth, 1.0)
    own = [fold["value"] for fold in run.calibration["folds"]] if calibrate(run, records_of(truth)) else []
    assert f"is from {min(own):.3f} to {max(own):.3f}." in run.calibration["sentence"]


def test_folds_that_an_earlier_version_calibrated_stay_as_they_are(tmp_path: Path) -> None:
    logits, truth = drawn(90)
    run = made_run(tmp_path, logits, truth, 1.0)
    for fold in range(FOLDS):
        run.uncalibrated(fold, "test").unlink()
        run.uncalibrated(fold, "validation").unlink()
    before = (run.folder(0) / FOLD).read_text()
    assert "an earlier version" in calibrate(run, records_of(truth))
    assert (run.folder(0) / FOLD).read_text() == before
    assert not (tmp_path / CALIBRATION).exists()


def test_a_damaged_calibration_is_told_of_with_what_to_do(tmp_path: Path) -> None:
    logits, truth = drawn(90)
    run = made_run(tmp_path, logits, truth, 1.0)
    (tmp_path / CALIBRATION).write_text("{")
    with pytest.raises(RunError, match=r"calibration\.json is damaged .* remove it, then: .* --resume"):
        run.folds()


def test_a_run_that_is_trained_but_not_calibrated_is_not_finished(tmp_path: Path) -> None:
    logits, truth = drawn(90)
    run = made_run(tmp_path, logits, truth, 1.0)
    with pytest.raises(RunError, match=r"trained but not calibrated; go on with: .* --resume"):
        run.folds()
    calibrate(run, records_of(truth))
    again = (tmp_path / CALIBRATION).read_text()
    calibrate(run, records_of(truth))  # as after a kill
    assert (tmp_path / CALIBRATION).read_text() == again
    answered = run_answers(run, records_of(truth), run.folds())
    assert len(answered.answers) == 90


def test_held_out_log_loss_is_not_worse_than_at_a_temperature_of_one_by_more_than_chance() -> None:
    """Small sets whose probabilities are right as they are: a fit to some dozens of images spoils them, a pooled and
    shrunk one does not."""
    from leanmed.figures.calibration import Evidence, fit_temperature, pooled_temperature

    pooled, single = [], []
    fresh, right = drawn(20_000, seed=99)

    def loss(t: float) -> float:
        return float(np.mean(np.logaddexp(0, np.where(right == 1, -fresh, fresh) / t)))

    for seed in range(20):
        logits, truth = drawn(120, seed=seed)
        seen = Evidence(logits, truth, np.array([f"g{k}" for k in range(120)]))
        pooled.append(loss(pooled_temperature(seen, resamples=2).value) - loss(1.0))
        single.append(loss(fit_temperature(logits[:24], truth[:24])) - loss(1.0))
    assert max(pooled) < 0.02
    assert np.mean(pooled) < 0.2 * np.mean(single)


def test_an_object_that_no_box_finds_makes_no_threshold_zero(tmp_path: Path) -> None:
    """Nine tenths of the objects can never be found: the highest sensitivity that there is is asked for, not 0."""
    from leanmed.figures.calibration import choose_threshold

    truth, scores = np.array([1, 1, 0, 0]), np.array([0.9, 0.3, 0.5, 0.1])
    assert choose_threshold(truth, scores, "sensitivity:0.9", unfound=18) == pytest.approx(0.2)
    assert choose_threshold(truth, scores, "f1", unfound=18) == pytest.approx(0.2)
    assert choose_threshold(truth, scores, "sensitivity:0.05", unfound=18) == pytest.approx(0.7)


def test_boxes_are_decided_like_labels(tmp_path: Path) -> None:
    from leanmed.tasks.detection.answer import recalibrated
    from leanmed.tasks.detection.judge import evidence

    box, far = (0.0, 0.0, 10.0, 10.0), (40.0, 40.0, 50.0, 50.0)
    records = [Record("a", Path("a.png"), Boxes((box, (20.0, 0.0, 30.0, 10.0))), "g")]
    answers = [Detections((box, far), (0.8, 0.2))]
    seen = evidence(records, answers, ("nodule",))
    assert (seen.truth.tolist(), seen.unfound) == ([1, 0], 1)
    assert seen.logits == pytest.approx([np.log(4), -np.log(4)])
    cooled = recalibrated(answers[0], 2.0, 0.5)
    assert (cooled.boxes, cooled.scores[0]) == ((box,), pytest.approx(2 / 3))
    assert (cooled.faint_boxes, cooled.faint_scores[0]) == ((far,), pytest.approx(1 / 3, abs=1e-6))


def test_a_report_says_what_calibrated_it(tmp_path: Path, finished_run: Run) -> None:
    assert finished_run.calibration == {}, "a run of before: each fold by itself"
    notes = evaluate_run(finished_run).notes
    assert not any("Calibration" in note for note in notes)
