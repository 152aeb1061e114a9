"""A student beside its teacher: the task with terms added, the run that teaches, and the command line."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from contracts.task_contract import MaskContract, TaskContract, answer_of, pixels
from leanmed.cli import app
from leanmed.compress import distil
from leanmed.compress.distil import Distilled, Pair, Teacher, open_teacher, teacher_of, weights_of
from leanmed.errors import RecipeError, RunError
from leanmed.exporting import export as exporting
from leanmed.exporting.export import provenance
from leanmed.recipe.recipe import Distillation
from leanmed.runs import MODEL, RUN, SPLITS, Run, read_csv
from leanmed.tasks.base import Batch, Task
from leanmed.tasks.building import build_task
from leanmed.tasks.recipes import check_recipe
from leanmed.training.fit import refit
from leanmed.training.loop import Loop
from leanmed.training.train import train
from training_fixtures import made_data, silent, tiny_recipe, trained_run, weights

SIDE = 32
LARGER = "test_resnet"  # than test_efficientnet
PAPER = {"affinity": 0.9, "kernel": 0.9, "logits": 0.2}


def made(kind: str, labels: tuple[str, ...], seed: int, model: dict[str, Any], **more: Any) -> Task:
    model = {"backbone": "test_efficientnet", "weights": "none", "side": SIDE, **model}
    recipe = check_recipe({"name": "tiny", "task": kind, "model": model, **more}, "here")
    torch.manual_seed(seed)
    return build_task(recipe, labels)


def classification(seed: int = 0, backbone: str = "test_efficientnet", labels: tuple[str, ...] = ("no", "yes")) -> Task:
    return made("classification", labels, seed, {"backbone": backbone, "dropout": 0.0})


def detection(seed: int = 0, width: int = 8, **detector: Any) -> Task:
    own = {"width": width, "levels": [4, 8], "anchors_per_level": 2, "crop": SIDE, **detector}
    scored = {"select_by": "ap50"}
    task = made("detection", ("nodule",), seed, {}, data={"kind": "slice"}, detector=own, training=scored)
    for name, parameter in task.named_parameters():
        if re.fullmatch(r"model\.heads\.\d+\.logits\.\d+\.weight", name):
            nn.init.normal_(parameter, std=0.5)
    return task


def segmentation(seed: int = 0, width: int = 8, **segmenter: Any) -> Task:
    scored = {"select_by": "dice"}
    model = {"backbone_args": {"width": width}, "dropout": 0.0}
    return made("segmentation", ("spot",), seed, model, segmenter=segmenter, training=scored)


def noise(channels: int) -> Tensor:
    return torch.rand(8, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def brightness() -> Batch:
    """Eight squares of noise whose brightness tells the label."""
    labels = torch.arange(8) % 2
    images = torch.cat([0.2 * noise(3) + 0.8 * labels.view(-1, 1, 1, 1), torch.ones(8, 1, SIDE, SIDE)], 1)
    return Batch({"image": images}, {"label": labels})


def squares() -> tuple[Tensor, Tensor]:
    """Corners (8, 2) of bright squares of 8 pixels, and the images (8, 1, s, s) that they are in."""
    corners = torch.randint(0, SIDE - 8, (8, 2), generator=torch.Generator().manual_seed(2))
    images = 0.1 * noise(1)
    for image, (x, y) in zip(images, corners.tolist(), strict=True):
        image[:, y : y + 8, x : x + 8] = 1
    return corners, images


def boxes() -> Batch:
    corners, images = squares()
    targets = torch.full((8, 100, 4), torch.nan)
    targets[:, 0] = torch.cat([corners, corners + 8], 1).float()
    return Batch({"image": images}, {"boxes": targets})


def masks() -> Batch:
    _, images = squares()
    alpha = torch.ones_like(images)
    mask = (images[:, 0] > 0.5).to(torch.uint8)
    return Batch(
        {"image": torch.cat([images.expand(-1, 3, -1, -1), alpha], 1)}, {"mask": mask, "case": torch.arange(8)}
    )


def one_by_one(batch: Batch) -> list[Batch]:
    """A training part, as a training begins with it."""
    parts = [[{name: tensor[k] for name, tensor in part.items()} for part in batch] for k in range(8)]
    return [Batch(*part) for part in parts]


def taught(student: Task, teacher: Task, batch: Batch, **settings: Any) -> Distilled:
    """A student that has begun. The teacher is of a few steps, so that there is something to learn from it."""
    teacher.begin(one_by_one(batch))
    optimizer = torch.optim.Adam(teacher.train().parameters(), lr=3e-3)
    for _ in range(4):
        optimizer.zero_grad()
        teacher.loss(batch).backward()
        optimizer.step()
    teacher.zero_grad()
    task = Distilled(student, teacher, Distillation(**settings))
    task.begin(one_by_one(batch))
    return task


class Taught(TaskContract):
    """A graph is the student's own, whose export its kind's tests hold against its module."""

    def test_the_graph_agrees_with_its_module_to_1e_5_on_any_size_with_and_without_alpha(self, task: Task) -> None:
        image = pixels(37, 53)
        own, kept = (answer_of(each.eval().graph(), image) for each in (task, task.kept))
        assert all(np.array_equal(one, other) for one, other in zip(own, kept, strict=True))


class TestClassificationTaught(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return taught(classification(), classification(1, LARGER), brightness(), attention=0.5)

    @pytest.fixture
    def batch(self) -> Batch:
        return brightness()


class TestDetectionTaught(Taught):
    @pytest.fixture
    def task(self) -> Task:
        return taught(detection(), detection(1, width=16), boxes(), gram="channel")

    @pytest.fixture
    def batch(self) -> Batch:
        return boxes()

    def far_too_sure(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every second box is right, and all are said to be right."""
        sure = outputs["boxes"].clone()
        sure[..., 4] = 10 + sure[..., 4] / 100
        sure[::2, 0, :4] = boxes().targets["boxes"][::2, 0]
        sure[:, 1:, 4] = -100.0
        return {"boxes": sure}


class TestSegmentationTaught(Taught, MaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return taught(segmentation(), segmentation(1, width=16), masks(), affinity=0.1, emkd=0.1, mskd=0.1)

    @pytest.fixture
    def batch(self) -> Batch:
        return masks()


# what a student is


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_student_alone_is_kept_and_no_state_holds_its_teacher() -> None:
    student, teacher = classification(), classification(1, LARGER)
    task = taught(student, teacher, brightness())
    assert task.kept is student
    assert task.state_dict().keys() == {f"student.{name}" for name in student.state_dict()}
    assert {id(p) for p in task.parameters()} == {id(p) for p in student.parameters()}


def test_a_projection_of_channels_is_trained_beside_the_student_and_not_kept() -> None:
    task = taught(detection(), detection(1, width=16), boxes(), gram="channel")
    more = task.state_dict().keys() - {f"student.{name}" for name in task.student.state_dict()}
    assert more == {"projection.weight", "projection.bias"}
    assert task.state_dict()["projection.weight"].shape == (16, 8, 1, 1)
    assert not any("projection" in name for name in task.kept.state_dict())


def test_a_student_follows_its_teacher_only_where_the_masks_know_something() -> None:
    batch = masks()
    task = taught(segmentation(1), segmentation(2, width=16), batch, affinity=1.0, kernel=0.0, logits=1.0).eval()
    nowhere = Batch(batch.inputs, batch.targets | {"mask": torch.full_like(batch.targets["mask"], 255)})
    assert task.loss(nowhere).item() == pytest.approx(task.student.loss(nowhere).item())
    assert task.loss(batch).item() > task.student.loss(batch).item()


def test_steps_of_training_leave_the_teacher_as_it_was() -> None:
    teacher = classification(1, LARGER)
    task = taught(classification(), teacher, brightness())
    before = state(teacher)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        task.train()
        optimizer.zero_grad()
        task.loss(brightness()).backward()
        optimizer.step()
    assert same(state(teacher), before)
    assert any("running_mean" in name for name in before)
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_is_laid_out_as_students_are() -> None:
    teacher = classification(1, LARGER)
    task = Distilled(classification(), teacher, Distillation())
    kernels = [p for p in teacher.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert task.pair(brightness().inputs).teacher["logits"].shape == (8, 1)


def test_the_loss_is_the_student_s_and_its_weighted_terms() -> None:
    task = taught(classification(), classification(1, LARGER), brightness(), kernel=2.0, logits=3.0).eval()
    pair = task.pair(brightness().inputs)
    own = task.student.loss(brightness())
    wanted = own + 2 * task.term("kernel", pair) + 3 * task.term("logits", pair)
    assert task.loss(brightness()).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert task.term("kernel", pair) > 0.01
    assert task.term("logits", pair) > 0.001
    assert task.loss_of(pair.student, brightness().targets).item() == pytest.approx(own.item(), rel=1e-6)


def test_validation_scores_the_student_by_its_own_loss() -> None:
    task = taught(classification(), classification(1, LARGER), brightness()).eval()
    figures = []
    for scored in (task, task.student):
        scorer = scored.scorer()
        with torch.inference_mode():
            scorer.add(scored(brightness().inputs), brightness().targets)
        figures.append(scorer.figures())
    assert figures[0] == figures[1]


def test_a_student_in_training_stays_so_when_it_begins_and_learns_nothing_by_it() -> None:
    student = classification()
    before = state(student)
    task = Distilled(student, classification(1, LARGER), Distillation()).train()
    lines = task.begin(one_by_one(brightness()))
    assert student.training
    assert same(state(student), before)
    assert lines == ["learns from its teacher by terms of these weights: kernel 0.9, logits 0.2"]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_term_of_segmentation_has_a_finite_gradient(precision: torch.dtype) -> None:
    terms = dict.fromkeys(("affinity", "kernel", "logits", "soft_targets", "attention", "emkd", "mskd"), 1.0)
    task = taught(segmentation(), segmentation(1, width=16), masks(), **terms)
    assert task.weights == terms
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = task.train().loss(masks())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


# which terms


def pair_of(logits: tuple[int, ...], features: tuple[int, ...], **other: Any) -> Pair:
    """Of a student, and a teacher like it but for `other`."""
    own = {"logits": torch.zeros(logits), "features.0": torch.zeros(features)}
    return Pair(own, own | other)


CLASSES, BOXES, PIXELS = (1, 3), (1, 1, 40), (1, 2, 8, 8)
MAPS, VECTOR = (1, 5, 4, 4), (1, 5)


@pytest.mark.parametrize(
    ("logits", "features", "wanted"),
    [
        (PIXELS, MAPS, PAPER),
        (CLASSES, MAPS, {"kernel": 0.9, "logits": 0.2}),
        (BOXES, MAPS, {"kernel": 0.9, "logits": 0.2}),
        (CLASSES, VECTOR, {"kernel": 0.9, "logits": 0.2}),
    ],
)
def test_the_kind_of_output_chooses_the_paper_s_terms(
    logits: tuple[int, ...], features: tuple[int, ...], wanted: dict[str, float]
) -> None:
    assert weights_of(Distillation(), pair_of(logits, features)) == wanted


@pytest.mark.parametrize(
    ("settings", "logits", "features", "words"),
    [
        ({"affinity": 0.9}, CLASSES, MAPS, ("distillation.affinity", "no logits of neighbouring pixels", "0.9")),
        ({"affinity": 0.9}, BOXES, MAPS, ("distillation.affinity", "set it to 0")),
        ({"emkd": 1.0}, CLASSES, MAPS, ("distillation.emkd", "got 1;")),
        ({"between": "features"}, CLASSES, VECTOR, ("distillation.affinity", "not maps")),
        ({"gram": "channel"}, CLASSES, VECTOR, ("distillation.kernel", "not maps")),
        ({"attention": 1.0}, CLASSES, VECTOR, ("distillation.attention", "not maps")),
        ({"mskd": 1.0}, CLASSES, VECTOR, ("distillation.mskd", "not maps")),
        ({"kernel": 0, "logits": 0}, CLASSES, MAPS, ("a weight above 0", "no --teacher")),
    ],
)
def test_a_term_that_outputs_do_not_allow_is_refused(
    refused: Any, settings: Any, logits: tuple[int, ...], features: tuple[int, ...], words: tuple[str, ...]
) -> None:
    with refused(RecipeError, *words):
        weights_of(Distillation(**settings), pair_of(logits, features))


def test_features_of_any_kind_allow_an_affinity_between_them() -> None:
    assert weights_of(Distillation(between="features"), pair_of(CLASSES, MAPS)) == PAPER


def test_logits_of_other_places_than_the_teacher_s_are_not_compared(refused: Any) -> None:
    places = torch.rand(1, 40, 4)
    pair = pair_of(BOXES, MAPS, places=places)
    pair.student["places"] = places * 1.0001
    assert "logits" in weights_of(Distillation(), pair)
    pair.student["places"] = places * 1.1
    assert weights_of(Distillation(), pair) == {"kernel": 0.9}
    with refused(RecipeError, "distillation.logits", "not of the same classes and places"):
        weights_of(Distillation(logits=0.2), pair)
    fewer = Pair(pair.student, pair_of((1, 1, 30), MAPS).teacher)
    assert weights_of(Distillation(), fewer) == {"kernel": 0.9}


def test_a_detector_of_other_default_boxes_teaches_by_its_features_alone() -> None:
    assert taught(detection(), detection(1), boxes()).weights == {"kernel": 0.9, "logits": 0.2}
    assert taught(detection(), detection(1, anchors=[3, 4, 5, 6]), boxes()).weights == {"kernel": 0.9}
    assert taught(detection(), detection(1, levels=[8]), boxes()).weights == {"kernel": 0.9}


def test_a_teacher_that_sees_other_channels_is_refused(refused: Any) -> None:
    task = Distilled(detection(), detection(1, slices=3), Distillation())
    with refused(RecipeError, "(1, 32, 32)", "(3, 32, 32)", "number of slices"):
        task.begin(one_by_one(boxes()))


def test_a_segmenter_of_three_slices_may_teach_one_of_one() -> None:
    task = taught(segmentation(slices=1), segmentation(1, slices=3), masks())
    assert task.weights == PAPER


# a run that teaches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_data(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A larger network on the split of `tiny_recipe`."""
    recipe = tiny_recipe(model={"backbone": LARGER}, training={"epochs": 2})
    return train(recipe, data, tmp_path_factory.mktemp("teacher") / "run", tell=silent)


BRIEF: dict[str, dict[str, Any]] = {"training": {"epochs": 2}}
CHANNELS: dict[str, dict[str, Any]] = {
    "training": {"epochs": 2, "average": 0.5, "patience": 5},
    "distillation": {"gram": "channel"},
}


@pytest.fixture(scope="module")
def student(data: Path, teacher: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Taught by the settings that leave most behind in a checkpoint. Look, do not touch."""
    out = tmp_path_factory.mktemp("student") / "run"
    return train(tiny_recipe(**CHANNELS), data, out, teacher=open_teacher(teacher.path), tell=silent)


def copy_of(run: Run, folder: Path) -> Run:
    return replace(run, path=Path(shutil.copytree(run.path, folder)))


def options(**sections: dict[str, Any]) -> list[str]:
    """A recipe of these sections as settings of the command line, beside the recipe `folder`."""
    recipe = tiny_recipe(**sections)
    names = ("split", "model", "training", "evaluation", *sections)
    plain = recipe.model_dump(mode="json")
    keys = ("folds", "validation", "groups", "backbone", "weights", "side", "batch_size", "epochs", "learning_rate")
    found = {
        f"{s}.{k}": plain[s][k] for s in names for k in plain[s] if k in keys or (s == "distillation" and plain[s][k])
    }
    return [part for key, value in found.items() for part in ("--set", f"{key}={value}")]


def run_command(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(run: Run) -> list[dict[str, str]]:
    return read_csv(run.path / SPLITS)


def test_a_teacher_of_the_same_split_is_taken(teacher: Run) -> None:
    Teacher(teacher).check(tiny_recipe(), teacher.labels, rows_of(teacher))


def test_a_teacher_of_other_labels_or_another_side_is_refused(teacher: Run, refused: Any) -> None:
    with refused(RunError, "student's labels", "('a', 'b')", str(teacher.path)):
        Teacher(teacher).check(tiny_recipe(), ("a", "b"), rows_of(teacher))
    with refused(RunError, "student's model.side, 64, got 32"):
        Teacher(teacher).check(tiny_recipe(model={"side": 64}), teacher.labels, rows_of(teacher))


def test_a_teacher_that_saw_a_test_image_is_refused(teacher: Run, refused: Any) -> None:
    rows = rows_of(teacher)
    seen = next(row for row in rows if row["fold_1"] == "validation")
    changed = [row | {"fold_1": "test"} if row is seen else row for row in rows]
    with refused(RunError, "1 of those of fold_1", seen["image"], "`split`"):
        Teacher(teacher).check(tiny_recipe(), teacher.labels, changed)


def test_a_teacher_that_saw_another_image_of_the_patient_is_refused(teacher: Run, refused: Any) -> None:
    rows = rows_of(teacher)
    seen = next(row for row in rows if row["fold_1"] == "train")
    new = seen | {"image": "another.png", "fold_0": "train", "fold_1": "test"}
    with refused(RunError, "1 of those of fold_1 or from their groups, such as another.png"):
        Teacher(teacher).check(tiny_recipe(), teacher.labels, [*rows, new])
    by_image = tiny_recipe(split={"protocol": "paper"})
    Teacher(teacher).check(by_image, teacher.labels, [*rows, new])


def test_a_teacher_of_fewer_folds_is_refused(teacher: Run, refused: Any) -> None:
    rows = [row | {"fold_2": ""} for row in rows_of(teacher)]
    with refused(RunError, "each of the student's 3 folds", "with 2"):
        Teacher(teacher).check(tiny_recipe(), teacher.labels, rows)


def test_images_that_the_teacher_never_had_may_be_tested_on(teacher: Run) -> None:
    rows = [row | {"image": f"elsewhere/{row['image']}", "fold_1": "test"} for row in rows_of(teacher)]
    Teacher(teacher).check(tiny_recipe(), teacher.labels, rows)


def test_an_unfinished_run_teaches_nobody(teacher: Run, tmp_path: Path, refused: Any) -> None:
    broken = copy_of(teacher, tmp_path / "run")
    shutil.rmtree(broken.folder(1))
    with refused(RunError, "fold 1", "not finished"):
        open_teacher(broken.path)


def test_the_command_trains_a_student_and_goes_on_with_the_run_s_own_teacher(
    data: Path, teacher: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    common = ("train", "folder", "--data", data, "--out", out, "--accelerator", "cpu", *options(**BRIEF))
    told = run_command(*common, "--teacher", teacher.path)
    assert "learns from its teacher by terms of these weights: kernel 0.9, logits 0.2" in told
    facts = json.loads((out / RUN).read_text())["teacher"]
    assert facts == {
        "run": str(teacher.path),
        "name": "tiny",
        "backbone": LARGER,
        "sha256": Teacher(teacher).sha256,
    }
    shutil.rmtree(out / "fold-1")
    assert "fold 1: learns from its teacher" in run_command(*common, "--resume")


def test_a_taught_student_differs_from_one_of_the_same_seed_alone(data: Path, student: Run, teacher: Run) -> None:
    alone = trained_run(data.parent)
    plain = {"training": {"epochs": 6}}
    found = train(tiny_recipe(**plain), data, student.path.parent / "plain", teacher=Teacher(teacher), tell=silent)
    ours, theirs = weights(found, 0), weights(alone, 0)
    assert ours.keys() == theirs.keys()
    assert not same(ours, theirs)
    assert found.fold(0).history[0]["train_loss"] != alone.fold(0).history[0]["train_loss"]


def test_what_is_kept_of_a_fold_is_a_student_s_weights_alone(student: Run) -> None:
    wanted = classification(labels=student.labels).state_dict()
    assert {name: tensor.shape for name, tensor in weights(student, 0).items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


def test_a_student_killed_between_epochs_ends_as_an_unbroken_one(
    data: Path, teacher: Run, student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a projection of channels and averaged weights, which its checkpoint must hold as well."""
    step = Loop.training_step

    def mortal(loop: Loop, batch: Any, number: int) -> Tensor:
        if (loop.fold, loop.current_epoch, number) == (0, 1, 1):
            raise KeyError("killed")
        return step(loop, batch, number)

    recipe, taught_by, out = tiny_recipe(**CHANNELS), Teacher(teacher), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "training_step", mortal)
        with pytest.raises(KeyError, match="killed"):
            train(recipe, data, out, teacher=taught_by, tell=silent)
    resumed = train(recipe, data, out, resume=True, teacher=taught_by, tell=silent)
    for fold in (0, 1):
        assert same(weights(resumed, fold), weights(student, fold))


def test_a_recipe_of_distillation_without_a_teacher_is_refused(data: Path, tmp_path: Path, refused: Any) -> None:
    with refused(RunError, "`distillation`", "--teacher RUN"):
        train(tiny_recipe(distillation={"logits": 1.0}), data, tmp_path / "run", tell=silent)
    assert not (tmp_path / "run").exists()


def test_going_on_without_the_teacher_or_with_another_is_refused(
    data: Path, student: Run, refused: Any, tmp_path: Path
) -> None:
    begun = copy_of(student, tmp_path / "run")
    shutil.rmtree(begun.folder(1))
    with refused(RunError, "another teacher"):
        train(begun.recipe, data, begun.path, resume=True, teacher=Teacher(trained_run(data.parent)), tell=silent)


def test_a_teacher_that_has_changed_or_gone_is_told_of(
    teacher: Run, student: Run, tmp_path: Path, refused: Any
) -> None:
    other = copy_of(teacher, tmp_path / "other")
    found = teacher_of(student, moved=other.path)
    assert found is not None
    assert found.sha256 == Teacher(teacher).sha256
    shutil.copy(other.folder(0) / MODEL, other.folder(1) / MODEL)
    with refused(RunError, str(other.path), "other models"):
        teacher_of(student, moved=other.path)
    shutil.rmtree(other.path)
    with refused(RunError, str(other.path), "got none", "--teacher"):
        teacher_of(student, moved=other.path)
    with refused(RunError, "trained without one", "leave it out"):
        teacher_of(teacher, moved=student.path)


def test_a_refit_takes_the_run_s_own_teacher_and_no_other(teacher: Run, student: Run, refused: Any) -> None:
    for wrong in (None, Teacher(student)):
        with refused(RunError, "the teacher that", "name the same"):
            refit(student, [], teacher=wrong, tell=silent)


class Trained(Exception):
    """All that is to be trained is trained, and the graph would be made now."""


def test_export_trains_the_teacher_on_all_images_and_then_its_student_and_needs_it_no_more(
    data: Path, teacher: Run, student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise Trained

    monkeypatch.setattr(exporting, "_model", stop)
    taught_by, own = copy_of(teacher, tmp_path / "teacher"), copy_of(student, tmp_path / "student")
    new = shutil.copytree(data, tmp_path / "data")
    for run in (taught_by, own):  # as if the images lay elsewhere now
        facts = json.loads((run.path / RUN).read_text()) | {"data": str(tmp_path / "gone")}
        (run.path / RUN).write_text(json.dumps(facts))
    export = ("export", own.path, "--out", tmp_path / "artifact", "--data", new)
    with pytest.raises(Trained):
        run_command(*export, "--teacher", taught_by.path)
    assert taught_by.done(None)
    assert own.done(None)
    assert weights(own, None).keys() == weights(own, 0).keys()
    facts = json.loads((own.path / RUN).read_text())
    facts["teacher"]["run"] = str(tmp_path / "gone")
    (own.path / RUN).write_text(json.dumps(facts))
    with pytest.raises(Trained):
        run_command(*export)
    shutil.rmtree(own.folder(None))
    with pytest.raises(Trained):
        run_command(*export, "--fold", 0)
    with pytest.raises(RunError, match="--teacher"):
        run_command(*export)


def test_what_is_exported_names_its_teacher(student: Run, teacher: Run) -> None:
    contents = dict.fromkeys((row["image"] for row in read_csv(student.path / SPLITS)), "0" * 64)
    own, none = (provenance(run, contents, "fold", 0).teacher for run in (student, teacher))
    facts = open_teacher(teacher.path).facts
    assert own == {name: facts[name] for name in ("name", "backbone", "sha256")}
    assert none is None


def test_a_teacher_s_own_teacher_helps_to_train_it_on_all_images(
    data: Path, teacher: Run, student: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, Any]] = []
    monkeypatch.setattr(distil, "refit", lambda run, records, teacher: asked.append((run.path, teacher)))
    monkeypatch.setattr(distil, "load_task", lambda run, fold: classification())
    Teacher(student).apply(classification(), None, Distillation())
    ((path, found),) = asked
    assert path == student.path
    assert found.run.path == teacher.path
