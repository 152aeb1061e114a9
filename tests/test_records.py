from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanmed.errors import DataError
from leanmed.records import Mask, Record
from leanmed.tasks.classification.answer import Prediction


def record(**changes: Any) -> Record:
    return Record(**({"id": "a.png", "image": Path("a.png"), "target": "x", "group": "g"} | changes))


@pytest.mark.parametrize("name", ["id", "target", "group"])
def test_a_record_needs_an_id_a_target_and_a_group(name, refused):
    with refused(DataError, "a.png", f"expected its {name}", "got nothing", "fill it in"):
        record(**{name: ""})


def test_an_id_that_is_no_utf8_is_refused_before_it_can_spoil_an_output(refused):
    with refused(DataError, r"'caf\udce9.png'", "expected a name in UTF-8", "rename the file"):
        record(id="caf\udce9.png")
    assert record(id="caf\u00e9 \U0001f441.png").id.endswith(".png")


def test_numbers_become_floats_and_text_stays():
    found = record(attributes={"age": 61, "hb": np.float32(9.5), "sex": "F"}).attributes
    assert found == {"age": 61.0, "hb": 9.5, "sex": "F"}
    assert [type(value) for value in found.values()] == [float, float, str]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("-inf"), None, [1, 2]])
def test_an_attribute_that_is_neither_text_nor_a_finite_number_is_refused(value, refused):
    with refused(DataError, "expected attribute hb", f"got {value!r}", "leave missing values out"):
        record(attributes={"hb": value})


def test_a_record_cannot_be_changed_from_outside():
    attributes = {"age": 1.0}
    frozen = record(attributes=attributes)
    attributes["age"] = 2.0
    assert frozen.attributes["age"] == 1.0
    with pytest.raises(TypeError):
        frozen.attributes["age"] = 3.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        frozen.target = "y"  # type: ignore[misc]


def test_records_can_be_compared_put_into_sets_and_sent_to_other_processes():
    one, other = record(attributes={"age": 1}), record(attributes={"age": 2})
    assert pickle.loads(pickle.dumps(one)) == one != other
    assert {one, record(attributes={"age": 1.0}), other} == {one, other}


def test_of_two_labels_the_second_is_the_positive_one():
    answer = Prediction("healthy", {"healthy": 0.75, "ill": 0.25})
    assert answer.probability == 0.25
    assert pickle.loads(pickle.dumps(answer)) == answer


def test_of_three_labels_the_probability_is_that_of_the_answer():
    assert Prediction("b", {"a": 0.25, "b": 0.5, "c": 0.25}).probability == 0.5


@pytest.mark.parametrize("values", [(0.5, 0.6), (-0.1, 1.1), (float("nan"), 0.5), (0.0, 0.0)])
def test_numbers_that_are_no_probabilities_are_refused(values, refused):
    with refused(DataError, "expected probabilities in [0, 1] that sum to 1", f"'ill': {values[1]}", "unsound"):
        Prediction("ill", {"healthy": values[0], "ill": values[1]})


def test_an_answer_must_be_one_of_the_labels(refused):
    with refused(DataError, "expected one of the labels ['healthy', 'ill']", "got 'dead'"):
        Prediction("dead", {"healthy": 0.5, "ill": 0.5})


def test_a_prediction_cannot_be_changed_from_outside():
    probabilities = {"healthy": 0.5, "ill": 0.5}
    answer = Prediction("ill", probabilities)
    probabilities["ill"] = 0.9
    assert answer.probability == 0.5


def test_a_mask_says_what_the_values_in_its_files_mean():
    mask = Mask((Path("a.png"), Path("b.png")), {"gland": (1, 2), "tumour": (3,)})
    assert json.loads(mask.text()) == {"mask": ["a.png", "b.png"], "values": {"gland": [1, 2], "tumour": [3]}}
    assert pickle.loads(pickle.dumps(mask)) == mask


@pytest.mark.parametrize("values", [{}, {"a": (0,)}, {"a": (1,), "b": (1,)}, {"a": (), "b": (1,)}, {"a": (1.5,)}])
def test_values_of_a_mask_without_a_single_meaning_are_refused(values):
    with pytest.raises(DataError, match="whole numbers above 0"):
        Mask((), values)


def test_a_record_with_a_mask_has_neither_label_nor_boxes():
    record = Record("a", Path("a.png"), Mask(()), "g", spacing=(0.5, 0.5))
    assert record.mask == Mask(())
    with pytest.raises(DataError, match="expected a class label, got a mask; choose a recipe for masks"):
        _ = record.label
    with pytest.raises(DataError, match="expected boxes, got a mask"):
        _ = record.boxes
    with pytest.raises(DataError, match="expected a mask, got a class label; choose a recipe for labels"):
        _ = Record("a", Path("a.png"), "sick", "g").mask
    with pytest.raises(DataError, match="expected a spacing above 0 mm"):
        Record("a", Path("a.png"), Mask(()), "g", spacing=(0.5, 0.0))


def test_the_label_of_a_mask_without_names_is_the_only_one_that_is_asked_for():
    assert dict(Mask(()).named(["vessel"]).values) == {"vessel": ()}
    assert dict(Mask(()).named(["a", "b"]).values) == {"object": ()}
    assert dict(Mask((), {"gland": (1,)}).named(["vessel"]).values) == {"gland": (1,)}
