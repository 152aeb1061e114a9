"""Slices with nodules and a detector's answers to them, planted instead of trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from leanmed.files import write_json
from leanmed.recipe.recipe import Recipe
from leanmed.records import Record
from leanmed.runs import FOLD, HISTORY, MODEL, Run, write_csv
from leanmed.runtime.lines import line_of, write_lines
from leanmed.tasks.building import build_task
from leanmed.tasks.detection.answer import Detections, answer_of_row
from leanmed.tasks.recipes import load_recipe
from leanmed.training import train as training

COUNT = 60
NODULE, ALARM = (8.0, 8.0, 16.0, 16.0), (30.0, 30.0, 38.0, 38.0)
SETTINGS = (
    "data.dataset=voc",
    "split.folds=2",
    "model.weights=none",
    "model.side=64",
    "training.epochs=1",
    "evaluation.resamples=100",
)


def write_slices(root: Path) -> Path:
    """Sixty slices of twenty patients: every third holds no nodule, the others one of 4, 5, ... 13 mm at `NODULE`."""
    for name in ("JPEGImages", "Annotations"):
        (root / name).mkdir(parents=True)
    rows = ["image,group"]
    for k in range(COUNT):
        Image.fromarray(np.full((48, 64), k, np.uint8)).save(root / "JPEGImages" / f"{k:02}.png")
        corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), NODULE, strict=True))
        box = f"<diameter_mm>{4 + k % 10}</diameter_mm><bndbox>{corners}</bndbox>"
        found = f"<object><name>nodule</name>{box}</object>" if k % 3 else ""
        (root / "Annotations" / f"{k:02}.xml").write_text(f"<annotation>{found}</annotation>")
        rows.append(f"JPEGImages/{k:02}.png,patient-{k // 3}")
    (root / "groups.csv").write_text("\n".join(rows) + "\n")
    return root


def answer(record: Record, missed: int) -> list[list[float]]:
    """Every `missed`-th slice's nodule gets no box, the others one half a pixel off; all a faint false alarm, and
    every fifth a sure one."""
    k = int(record.image.stem)
    hit = [[*(v + 0.5 for v in NODULE), 0.9]] if record.boxes.xyxy and k % missed else []
    return [*hit, [*ALARM, 0.8 if k % 5 == 0 else 0.3]]


def decided(rows: list[list[float]]) -> Detections:
    """Boxes with a score each as an answer at a threshold of .5."""
    return answer_of_row({"boxes": json.dumps(rows)}, ("nodule",), 0.5)


def planted_run(out: Path, data: Path, recipe: Recipe | None = None, **changes: Any) -> Run:
    """A run of the recipe on the slices in `data`, as training leaves it, but with `answer` for its answers."""
    recipe = recipe or load_recipe("nodules", SETTINGS)
    with planted(**changes):
        return training.train(recipe, data, out, tell=lambda line: None)


def planted(missed: dict[str, int] | None = None) -> Any:
    """While it lasts, training plants answers; `missed` gives the backbones that miss more than every fourth."""

    def plant(run: Run, fold: Any, records: list[Record], *rest: Any) -> None:
        folder = run.folder(fold.number)
        every = (missed or {}).get(run.recipe.model.backbone, 4)
        task = build_task(run.recipe, run.labels, pretrained=False)
        folder.mkdir(parents=True)
        for part in ("validation", "test"):
            rows = [(records[i], answer(records[i], every)) for i in fold.parts()[part]]
            write_lines(run.answers(fold.number, part), [line_of(r.id, decided(boxes)) for r, boxes in rows])
        save_file({name: value.contiguous() for name, value in task.state_dict().items()}, folder / MODEL)
        select_by = f"val_{run.recipe.training.select_by}"
        write_csv(folder / HISTORY, [{"epoch": 0, "train_loss": 1, "val_loss": 1, select_by: 0.5}])
        facts = {"fold": fold.number, "best_epoch": 0, "epochs": 1, "seconds": 60.0}
        scores = {"ap50": 0.5, "froc": 0.5}
        write_json(folder / FOLD, facts | {"validation": scores, "manifest": task.manifest() | {"threshold": 0.5}})

    return mock.patch.object(training, "train_fold", plant)


def constant_graph() -> bytes:
    """A graph that finds `NODULE` with .9, `ALARM` with .2, whatever the pixels."""
    constants = {"boxes": np.float32([NODULE, ALARM]), "scores": np.float32([0.9, 0.2])}
    graph = helper.make_graph(
        [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(v, n)) for n, v in constants.items()],
        "constant",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["h", "w", "c"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString())
