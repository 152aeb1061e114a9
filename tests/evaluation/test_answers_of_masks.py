from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leanmed.errors import DataError, RecipeError
from leanmed.evaluation.files import evaluate_answers
from leanmed.runtime.lines import line_of
from leanmed.tasks.segmentation.answer import MaskedImage

VALUES = "data.values={gland: [1, 2], tumour: [3]}"


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """Three images whose masks hold 1, 2 and 3, and answers that find the gland and half of the tumour."""
    lines = []
    for k in range(3):
        for name in ("images", "masks"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(tmp_path / f"data/images/{k}.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[:2], mask[2:4], mask[6:] = 1, 2, 3
        Image.fromarray(mask).save(tmp_path / f"data/masks/{k}.png")
        said = np.where(mask == 3, 2, mask > 0).astype(np.uint8)
        said[7:] = 0
        answer = MaskedImage.of(("gland", "tumour"), said, np.full((8, 8), 255, np.uint8))
        lines.append(line_of(f"{k}.png", answer))
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line | {"input": f"images/{line['input']}"}) + "\n" for line in lines))
    return file


def test_answers_of_several_labels_are_judged_where_it_is_said_what_values_mean(answered: Path) -> None:
    report = evaluate_answers(
        answered,
        answered.parent / "data",
        dataset="masks",
        settings=[VALUES, "evaluation.resamples=100"],
        groups="reader",
    )
    assert report.figures["dice:gland"].value == 1
    assert report.figures["dice:tumour"].value == pytest.approx(2 / 3)


def test_without_that_the_message_names_what_the_command_takes(answered: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected a mask of gland, tumour, got object; name .* with --set data.values"
    ):
        evaluate_answers(answered, answered.parent / "data", dataset="masks", groups="reader")
    with pytest.raises(
        RecipeError, match=r"to begin with one of data\.values=, data\.origin=, evaluation\., got 'data\.valves=1'"
    ):
        evaluate_answers(answered, answered.parent / "data", dataset="masks", settings=["data.valves=1"])
