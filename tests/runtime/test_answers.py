"""Answers to lists of inputs, and the table of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import leanmed
from leanmed.errors import InputError, MissingExtraError
from leanmed.reading.images import read_image
from leanmed.runtime.answers import Answers, predict


def test_a_list_is_answered_in_its_order_as_one_by_one(tiny_artifact, photographs):
    predictor = leanmed.load(tiny_artifact)
    sources = [photographs[1], read_image(photographs[0]), photographs[2].read_bytes()]

    answers = predict(predictor, sources, workers=2)

    assert list(answers) == [predictor.predict(source) for source in sources]
    assert answers.inputs == (str(photographs[1]), "1", "2")
    assert answers[-1] == answers[2]
    assert answers[1:].inputs == ("1", "2")
    assert answers.failed == {}


def test_a_folder_is_answered_as_the_command_line_does(tiny_artifact, photographs):
    folder = photographs[0].parent
    assert set(predict(tiny_artifact, folder).inputs) == {str(path) for path in photographs}


def test_what_cannot_be_read_is_kept_and_told_of(tiny_artifact, photographs, tmp_path):
    (damaged := tmp_path / "damaged.png").write_bytes(b"no image")

    with pytest.warns(UserWarning, match=r"1 of 2 inputs have no answer: .*damaged\.png"):
        answers = predict(tiny_artifact, [damaged, photographs[0]])

    assert answers[0] is None
    assert answers[1] is not None
    assert list(answers.failed) == [str(damaged)]
    frame = answers.to_frame()
    assert frame["error"].notna().tolist() == [True, False]
    assert frame["label"].tolist()[1] == answers[1].label


def test_a_frame_has_the_columns_of_the_table_that_predict_writes(tiny_artifact, photographs):
    answers = predict(tiny_artifact, photographs[:2])
    labels = leanmed.load(tiny_artifact).manifest.labels
    frame = answers.to_frame()
    assert frame.columns.tolist() == ["input", "label", *(f"p_{label}" for label in labels), "familiar", "error"]
    assert frame["p_" + labels[1]].tolist() == [answer.probabilities[labels[1]] for answer in answers]


def test_no_inputs_give_no_answers(tiny_artifact):
    assert predict(tiny_artifact, []) == Answers((), (), ())


def test_a_folder_without_an_image_is_refused(tiny_artifact, tmp_path, refused):
    with refused(InputError, "expected at least one image, found none"):
        predict(tiny_artifact, tmp_path)


def test_a_frame_without_pandas_names_what_to_install(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with refused(MissingExtraError, "to_frame needs packages", "pip install 'leanmed[pandas]'"):
        Answers(("a",), (None,), ("damaged",)).to_frame()


def test_answers_need_neither_pandas_nor_torch(tiny_artifact, photographs):
    code = f"import leanmed, sys; leanmed.predict({str(tiny_artifact)!r}, [{str(photographs[0])!r}]); "
    code += "print({'pandas', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
