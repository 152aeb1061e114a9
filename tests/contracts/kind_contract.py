"""What prediction, evaluation, compression and reports may rely on, whatever the kind of task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanmed.errors import ArtifactError, DataError
from leanmed.manifest import Manifest
from leanmed.records import Record
from leanmed.runtime.lines import kind_of, line_of
from leanmed.tasks import TASKS
from leanmed.tasks.kind import Answer, Kind, Outputs, with_familiar

GREY = np.full((24, 32, 3), 128, np.uint8)


class KindContract:
    """Inherit it in a class `Test...` that gives what stands below without a value; all the rest is tested here."""

    name: str
    """Of the kind, in `TASKS`."""
    wrong_labels: tuple[str, ...]
    """Labels that do not go with the kind."""

    @pytest.fixture
    def manifest(self) -> Manifest:
        """Of an artifact of the kind."""
        raise NotImplementedError

    @pytest.fixture
    def outputs(self) -> list[Outputs]:
        """What a graph gives for each of twenty images, some of them answered wrongly."""
        raise NotImplementedError

    @pytest.fixture
    def others(self) -> list[Outputs]:
        """What another graph gives for the same images: worse, and unlike on some."""
        raise NotImplementedError

    @pytest.fixture
    def records(self) -> list[Record]:
        """What is true of the images, of ten groups and two sites."""
        raise NotImplementedError

    @pytest.fixture
    def empty(self) -> Outputs:
        """What a graph gives when it finds as little as it can."""
        raise NotImplementedError

    @pytest.fixture
    def kind(self) -> Kind:
        return TASKS[self.name]

    @pytest.fixture
    def answers(self, kind: Kind, outputs: list[Outputs], manifest: Manifest) -> list[Answer]:
        return [kind.answer.decide(own, manifest) for own in outputs]

    def table(self, kind: Kind, records: Sequence[Record], answers: Sequence[Answer], manifest: Manifest) -> Any:
        return kind.judge.table_of(records, answers, manifest.labels)

    def test_an_answer_comes_back_from_its_line_as_it_was(self, kind: Kind, answers: list[Answer]) -> None:
        for answer in answers:
            line = json.loads(json.dumps(line_of("a.png", answer)))
            assert kind.answer.is_answer(line)
            assert kind_of(line) == self.name
            assert kind.answer.answer_of(line) == answer

    def test_how_familiar_an_image_looks_stays_with_its_answer(
        self, kind: Kind, answers: list[Answer], manifest: Manifest
    ) -> None:
        for answer in answers:
            assert answer.familiar is None
            assert (answer.as_json()["familiar"], answer.cells()["familiar"]) == (None, "")
            told = with_familiar(answer, 0.25)
            assert (told.as_json()["familiar"], told.cells()["familiar"]) == (0.25, 0.25)
            others = (
                kind.answer.answer_of(json.loads(json.dumps(told.as_json()))),
                kind.answer.recalibrated(told, 2.0, manifest.threshold),
                told.placed(lambda points: points[:, ::-1] * 2),
            )
            assert [other.familiar for other in others] == [0.25] * 3
            with pytest.raises(DataError):
                kind.answer.answer_of(told.as_json() | {"familiar": 1.5})

    def test_every_line_holds_the_threshold(self, answers: list[Answer], manifest: Manifest) -> None:
        assert [answer.as_json()["threshold"] for answer in answers] == [manifest.threshold] * len(answers)

    def test_a_temperature_of_one_changes_nothing_and_the_threshold_given_decides(
        self, kind: Kind, answers: list[Answer], manifest: Manifest
    ) -> None:
        for answer in answers:
            same = kind.answer.recalibrated(answer, 1.0, manifest.threshold)
            assert rounded(same.as_json()) == rounded(answer.as_json())
            other = kind.answer.recalibrated(answer, 2.0, manifest.threshold)
            assert other.as_json()["threshold"] == manifest.threshold

    def test_what_calibrates_has_a_truth_and_a_group_for_every_logit(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        seen = kind.judge.evidence(records, answers, manifest.labels)
        if seen is None:
            hot = kind.answer.recalibrated(answers[0], 3.0, manifest.threshold)
            assert hot == answers[0], "a kind without evidence has no temperature"
            return
        assert len(seen.logits) == len(seen.truth) == len(seen.group) > 0
        assert np.isfinite(seen.logits).all()
        assert set(seen.group.tolist()) <= {record.group for record in records}
        assert seen.unfound >= 0

    def test_answers_tell_as_many_labels_as_the_model_has(
        self, kind: Kind, answers: list[Answer], manifest: Manifest
    ) -> None:
        assert len(kind.answer.labels_of(answers)) == len(manifest.labels)

    def test_a_scan_is_refused_by_an_artifact_that_takes_single_images(self, kind: Kind, manifest: Manifest) -> None:
        single = manifest.model_copy(update={"input": manifest.input.model_copy(update={"kind": "photograph"})})
        with pytest.raises(ArtifactError, match=r"expected an artifact .*, got one that .*; take another artifact"):
            kind.answer.search(None, lambda pixels: [], single, None)

    def test_a_line_that_is_no_answer_is_refused_in_one_paragraph(
        self, kind: Kind, answers: list[Answer], refused: Callable[..., Any]
    ) -> None:
        first = answers[0].as_json()
        key = next(name for name in first if name != "threshold" and kind.answer.is_answer({name: 0} | first))
        assert not kind.answer.is_answer({})
        with refused(DataError, "correct the line"):
            kind.answer.answer_of({})
        with refused(DataError, "expected"):
            kind.answer.answer_of(dict.fromkeys(first, "x") | {key: [["x"]]})

    def test_unsound_outputs_are_refused(self, kind: Kind, outputs: list[Outputs], manifest: Manifest) -> None:
        broken = [np.full_like(part, np.nan if part.dtype.kind == "f" else 255) for part in outputs[0]]
        with pytest.raises(DataError):
            kind.answer.decide(broken, manifest)

    def test_the_empty_case_is_an_answer_like_any_other(self, kind: Kind, empty: Outputs, manifest: Manifest) -> None:
        answer = kind.answer.decide(empty, manifest)
        assert kind.answer.answer_of(answer.as_json()) == answer
        assert answer.draw(GREY).shape[2] == 3
        assert kind.answer.apart(empty, empty) == 0

    def test_a_table_of_a_spreadsheet_has_the_same_columns_for_every_answer(self, answers: list[Answer]) -> None:
        assert len({tuple(answer.cells()) for answer in answers}) == 1
        assert all(isinstance(cell, str | int | float) for answer in answers for cell in answer.cells().values())

    @pytest.mark.parametrize("channels", [3, 4])
    def test_an_answer_is_drawn_over_or_below_the_whole_image(self, answers: list[Answer], channels: int) -> None:
        pixels = np.full((24, 32, channels), 128, np.uint8)
        pixels[..., 3:] = 255
        drawn = answers[0].draw(pixels)
        assert drawn.dtype == np.uint8
        assert drawn.shape[0] > 24
        assert drawn.shape[1] >= 32
        assert (pixels[..., :3] == 128).all(), "the image given is left as it was"
        assert (drawn[:24, :32] == 128).any()

    def test_places_follow_the_frame_and_come_back(self, kind: Kind, answers: list[Answer]) -> None:
        for answer in answers:
            turned = answer.placed(lambda points: points[:, ::-1] * 2)
            assert turned.placed(lambda points: points[:, ::-1] / 2) == answer

    def test_outputs_are_apart_by_nothing_from_themselves_and_by_something_from_others(
        self, kind: Kind, outputs: list[Outputs], others: list[Outputs]
    ) -> None:
        assert max(kind.answer.apart(own, own) for own in outputs) == 0
        pairs = list(zip(outputs, others, strict=True))
        assert max(kind.answer.apart(own, other) for own, other in pairs) > 0.05
        assert [kind.answer.apart(a, b) for a, b in pairs] == [kind.answer.apart(b, a) for a, b in pairs]

    def test_what_is_explained_is_a_number_that_follows_the_outputs(
        self, kind: Kind, outputs: list[Outputs], others: list[Outputs], empty: Outputs, manifest: Manifest
    ) -> None:
        if not kind.has_explained:
            assert "mask" in [name for names in kind.answer.GRAPHS.values() for name in names]
            return
        targets = [kind.explained(own, manifest) for own in outputs]
        assert all(target.name for target in targets)
        same = [target.score(own) for target, own in zip(targets, outputs, strict=True)]
        moved = [target.score(other) for target, other in zip(targets, others, strict=True)]
        assert all(isinstance(score, float) and np.isfinite(score) for score in (*same, *moved))
        assert max(abs(a - b) for a, b in zip(same, moved, strict=True)) > 0.05
        assert np.isfinite(kind.explained(empty, manifest).score(outputs[0]))

    def test_labels_and_outputs_of_another_kind_are_refused(
        self, kind: Kind, outputs: list[Outputs], manifest: Manifest
    ) -> None:
        kind.answer.check(manifest.labels, manifest.threshold)
        with pytest.raises(ValueError, match="expected"):
            kind.answer.check(self.wrong_labels, 0.5)
        if kind.has_further_graphs:
            return
        names = kind.answer.GRAPHS["model"]
        shapes = {name: part.shape for name, part in zip(names, outputs[0], strict=True)}
        assert kind.answer.fits(shapes, manifest.labels)
        assert not kind.answer.fits({f"{name}s": shape for name, shape in shapes.items()}, manifest.labels)
        assert not kind.answer.fits({name: (*shape, 7) for name, shape in shapes.items()}, manifest.labels)

    def test_only_further_graphs_name_inputs_and_without_them_the_outputs_of_the_first_are_final(
        self, kind: Kind, outputs: list[Outputs]
    ) -> None:
        first, *further = kind.answer.GRAPHS
        assert first == "model"
        assert set(kind.inputs) == set(further)
        assert all(kind.inputs.values())
        assert kind.has_further_graphs == bool(further)
        if not further:
            pixels = np.zeros((4, 5, 3), np.uint8)
            assert kind.outputs(pixels, lambda name, feeds: outputs[0]) is outputs[0]

    def test_every_figure_has_a_name_a_meaning_or_both_and_the_main_one_is_among_them(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        figures = kind.judge.score(table, resamples=50)
        assert set(figures) <= set(kind.judge.terms(table))
        assert kind.judge.MAIN_SCORE in figures
        assert set(kind.judge.SHOWN) | set(kind.judge.CARD_COLUMNS) <= set(figures)
        assert all(figure.n == len(records) for figure in figures.values())
        point = kind.judge.point(table)
        assert {name: figures[name].value for name in point} == pytest.approx(point, nan_ok=True)

    def test_a_model_differs_from_itself_by_nothing_and_agrees_everywhere(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        change = kind.judge.paired(table, table, resamples=50)
        assert change["agreement"].value == 1
        assert {c.value for name, c in change.items() if name != "agreement" and c.value == c.value} == {0.0}

    def test_a_worse_model_loses_what_the_two_scores_differ_by(
        self,
        kind: Kind,
        records: list[Record],
        answers: list[Answer],
        others: list[Outputs],
        manifest: Manifest,
    ) -> None:
        worse = [kind.answer.decide(own, manifest) for own in others]
        before, after = (self.table(kind, records, own, manifest) for own in (answers, worse))
        change = kind.judge.paired(before, after, resamples=50)
        main = kind.judge.MAIN_SCORE
        lost = kind.judge.point(after)[main] - kind.judge.point(before)[main]
        assert lost < -0.01
        assert change[main].value == pytest.approx(lost)
        assert change[main].low <= change[main].value <= change[main].high
        assert 0 < change["agreement"].value < 1

    def test_other_images_cannot_be_paired(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        turned = self.table(kind, records[::-1], answers, manifest)
        with pytest.raises(DataError, match="same images"):
            kind.judge.paired(table, turned, resamples=50)

    def test_subgroups_add_up_to_all_images_and_say_how_many_groups_they_are_of(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        rows = kind.judge.subgroups(table, {"site": [r.site for r in records]}, edges={}, resamples=50)
        sites = [row for row in rows if row.name == "site"]
        assert {row.value: row.n for row in sites} == {"A": 10, "B": 10}
        assert [row.groups for row in sites] == [5, 5]

    def test_mistakes_are_of_the_records_and_at_least_one_is_found(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        found = kind.judge.mistakes(self.table(kind, records, answers, manifest), records, answers)
        assert found
        assert {mistake.id for mistake in found} <= {record.id for record in records}

    def test_a_gallery_holds_every_image_in_one_cell_and_its_pictures_are_of_the_records(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        found = kind.judge.gallery(self.table(kind, records, answers, manifest), records, answers)
        if found is None:
            return
        assert found.reading
        assert sum(montage.images for montage in found.montages) == len(records)
        cells = [(montage.truth, montage.answered) for montage in found.montages]
        assert len(set(cells)) == len(cells)
        ids = [example.id for montage in found.montages for example in montage.examples]
        assert len(set(ids)) == len(ids) > 0
        assert set(ids) <= {record.id for record in records}

    def test_folds_travel_with_the_table_and_a_part_of_it_is_one_too(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = kind.judge.table_of(records, answers, manifest.labels, [k % 2 for k in range(len(records))])
        part = table.subset(table.fold == 1)
        assert (part.group.size, set(part.fold.tolist())) == (10, {1})

    def test_a_kind_with_probabilities_names_an_output_and_the_figures_that_a_calibration_changes(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        named = kind.judge.point(self.table(kind, records, answers, manifest))
        assert kind.probabilities in (*kind.answer.GRAPHS["model"], "")
        assert kind.recalibrated_figures or not kind.probabilities
        assert set(kind.recalibrated_figures) <= set(named)

    def test_predictive_values_and_a_decision_curve_are_given_or_refused(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        curve = kind.decision_curve(table)
        if curve is None:
            with pytest.raises(DataError, match="leave it out"):
                kind.predictive_values(manifest.labels)
            return
        values = kind.predictive_values(manifest.labels)(table, 0.1, resamples=50)
        assert all(0 <= figure.value <= 1 for figure in values.values())
        assert {len(column) for column in curve.values()} == {99}

    def test_a_page_and_a_card_have_words_for_it(
        self, kind: Kind, records: list[Record], answers: list[Answer], manifest: Manifest
    ) -> None:
        table = self.table(kind, records, answers, manifest)
        assert str(len(records)) in kind.judge.remarks(table)[0]
        assert all(plot.svg and plot.alt and plot.reading for plot in kind.judge.plots(table, [0.5]))
        assert manifest.labels[-1] in kind.judge.describe(manifest)
        assert all(sentence.endswith(".") for sentence in kind.judge.limits(manifest))
        assert kind.words(table).things


def rounded(value: Any) -> Any:
    """Plain values with their numbers to six digits."""
    if isinstance(value, Mapping):
        return {name: rounded(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(own) for own in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def groups_of(targets: Sequence[Any]) -> list[Record]:
    """Twenty records with such targets: two of a group, and half the groups of each site."""
    return [
        Record(f"{k:02}.png", Path(f"{k:02}.png"), target, f"group-{k // 2}", "AB"[k // 10])
        for k, target in enumerate(targets)
    ]
