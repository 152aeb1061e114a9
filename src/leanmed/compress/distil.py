"""Distillation: a student learns from labels and from a teacher, a larger model of the same task.

It is a technique of the shape task -> task: the student's task with the teacher's terms added to its loss, and nothing
else changed. What is kept of a training is the student alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leanmed.compress import distil_terms as terms
from leanmed.errors import RecipeError, RunError
from leanmed.evaluation.runs import read_again, split_records
from leanmed.files import sha256_file, sha256_json
from leanmed.recipe.recipe import Distillation, Recipe
from leanmed.records import Record
from leanmed.runs import MODEL, SPLITS, Run, read_csv
from leanmed.tasks.base import Batch, Named, Scorer, Size, Task
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import Answer
from leanmed.tasks.recipes import open_run
from leanmed.train.fit import refit

AFFINITY, KERNEL, LOGITS = 0.9, 0.9, 0.2  # the prostate paper's weights
PLANE = 4  # axes of logits that have a place: (b, K, h, w)


@dataclass(frozen=True)
class Pair:
    """What student and teacher make of one batch: see `Task.reveal`."""

    student: Named
    teacher: Named

    @property
    def logits(self) -> tuple[Tensor, Tensor]:
        """Both logits, the classes on axis 1."""
        return self.student["logits"], self.teacher["logits"]

    @property
    def features(self) -> tuple[list[Tensor], list[Tensor]]:
        """All features of both, from the shallowest to the deepest."""
        return features_of(self.student), features_of(self.teacher)

    @property
    def deepest(self) -> tuple[Tensor, Tensor]:
        """The deepest features of both."""
        return self.features[0][-1], self.features[1][-1]


def weights_of(settings: Distillation, pair: Pair) -> dict[str, float]:
    """The terms to learn by, with their weights.

    Raises:
        RecipeError: a term that such outputs do not allow has a weight, or none has one.
    """
    masks = all(logits.ndim == PLANE for logits in pair.logits)
    maps = all(features.ndim == PLANE for features in pair.deepest)
    allowed = {
        "affinity": maps if settings.between == "features" else masks,
        "kernel": settings.gram == "batch" or maps,
        "logits": True,
        "soft_targets": True,
        "attention": True,
        "emkd": masks and maps,
        "mskd": True,
    }
    paper = {"affinity": AFFINITY if allowed["affinity"] else 0.0, "kernel": KERNEL, "logits": LOGITS}
    asked = {name: getattr(settings, name) for name in allowed}
    weights = {name: paper[name] if weight is None else weight for name, weight in asked.items()}
    for name, weight in weights.items():
        if weight and not allowed[name]:
            raise RecipeError(
                f"expected distillation.{name} to be 0, since this task's outputs have no neighbouring pixels, got "
                f"{weight:g}; leave it out"
            )
    if not any(weights.values()):
        raise RecipeError("expected a weight above 0 for some term of distillation, got none; set one, or no --teacher")
    return {name: weight for name, weight in weights.items() if weight}


def features_of(revealed: Named) -> list[Tensor]:
    """A network's features, from the shallowest to the deepest."""
    numbered = sorted((int(m[1]), name) for name in revealed if (m := re.fullmatch(r"features\.(\d+)", name)))
    return [revealed[name] for _, name in numbered] or [revealed["features"]]


class Distilled(Task):
    """A student's task with a teacher's terms added to its loss.

    Args:
        student: what is trained, and kept.
        teacher: a trained task with the same labels; it stays as it is.
        settings: the terms and their weights.

    Raises:
        RecipeError: a term has a weight that such outputs do not allow, or none has one.
    """

    def __init__(self, student: Task, teacher: Task, settings: Distillation) -> None:
        super().__init__()
        self.student, self.settings = student, settings
        self.main_score = student.main_score
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list, so that it is no part of this module
        self.weights: dict[str, float] = {}
        self.projection: nn.Module | None = None

    @property
    def kept(self) -> Task:
        """The student."""
        return self.student

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """As the student; and find out from the first image what its outputs allow."""
        lines = self.student.begin(data)
        first = next(iter(data))
        inputs = {name: tensor[None] for name, tensor in first.inputs.items()}
        was_training = self.student.training
        self.student.eval()
        with torch.no_grad():
            pair = self.pair(inputs)
        self.student.train(was_training)
        self.weights = weights_of(self.settings, pair)
        if self.settings.gram == "channel" and "kernel" in self.weights:
            own, taught = (features.shape[1] for features in pair.deepest)
            self.projection = nn.Conv2d(own, taught, 1)
        told = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return [*lines, f"learns from its teacher by terms of these weights: {told}"]

    def pair(self, inputs: Mapping[str, Tensor]) -> Pair:
        """What both make of the same inputs."""
        (teacher,) = self._teacher
        device = next(iter(inputs.values())).device
        if next(teacher.parameters()).device != device:
            teacher.to(device)
        with torch.no_grad():
            taught = teacher.reveal(inputs)
        return Pair(self.student.reveal(inputs), taught)

    def loss(self, batch: Batch) -> Tensor:
        """The student's loss and the weighted terms."""
        pair = self.pair(batch.inputs)
        total = self.student.loss_of(pair.student, batch.targets)
        for name, weight in self.weights.items():
            total = total + weight * self.term(name, pair)
        return total

    def term(self, name: str, pair: Pair) -> Tensor:
        """One term, unweighted."""
        settings = self.settings
        if name == "affinity" and settings.between == "features":
            return terms.feature_affinity(*pair.deepest)
        if name == "affinity":
            return terms.affinity(*pair.logits, margin=settings.margin)
        if name == "kernel":
            own, taught = pair.deepest
            return terms.kernel(self.projection(own) if self.projection else own, taught, gram=settings.gram)
        if name == "logits":
            return terms.logits(*pair.logits, direction=settings.direction)
        if name == "soft_targets":
            return terms.soft_targets(*pair.logits, temperature=settings.temperature)
        if name == "attention":
            return terms.attention(*pair.deepest)
        both = zip(pair.logits, pair.features, strict=True)
        return {"emkd": terms.emkd, "mskd": terms.mskd}[name](*both, temperature=settings.temperature)

    def prepare(self, pixels: NDArray[Any]) -> Named:
        """As the student."""
        return self.student.prepare(pixels)

    def keep(self, inputs: Named) -> Named:
        """As the student."""
        return self.student.keep(inputs)

    def encode(self, record: Record, size: Size | None = None) -> Named:
        """As the student."""
        return self.student.encode(record, size)

    def augment(self, batch: Batch, seed: int) -> Batch:
        """As the student."""
        return self.student.augment(batch, seed)

    def forward(self, inputs: Mapping[str, Tensor]) -> Named:
        """As the student."""
        outputs: Named = self.student(inputs)
        return outputs

    def reveal(self, inputs: Mapping[str, Tensor]) -> Named:
        """As the student."""
        return self.student.reveal(inputs)

    def loss_of(self, revealed: Named, targets: Named) -> Tensor:
        """The student's own loss, without its teacher."""
        return self.student.loss_of(revealed, targets)

    def scorer(self) -> Scorer:
        """As the student."""
        return self.student.scorer()

    def decide_by(self, temperature: float, threshold: float | None) -> None:
        """As the student."""
        self.student.decide_by(temperature, threshold)

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> Sequence[Answer]:
        """As the student."""
        return self.student.answers(outputs, sizes)

    def graph(self) -> nn.Module:
        """As the student."""
        return self.student.graph()

    def ensemble(self, others: Sequence[Task]) -> nn.Module:
        """As the student."""
        return self.student.ensemble(others)

    def manifest(self) -> dict[str, Any]:
        """As the student."""
        return self.student.manifest()


@dataclass(frozen=True)
class Teacher:
    """A finished run whose models teach those of another run, fold by fold.

    Args:
        run: of the same labels and the same split.
    """

    run: Run

    @cached_property
    def sha256(self) -> str:
        """One hash over the weights of all folds."""
        folds = range(self.run.facts["folds"])
        return sha256_json([sha256_file(self.run.folder(fold) / MODEL) for fold in folds])

    @property
    def facts(self) -> dict[str, Any]:
        """What a run keeps of its teacher."""
        name, backbone = self.run.recipe.name, self.run.recipe.model.backbone
        return {"run": str(self.run.path.resolve()), "name": name, "backbone": backbone, "sha256": self.sha256}

    def check(self, recipe: Recipe, labels: tuple[str, ...], rows: Sequence[Mapping[str, str]]) -> None:
        """Refuse to teach what the teacher does not know, or what it may only know since it saw the test part.

        Args:
            recipe: of the student.
            labels: of the student.
            rows: of its split: each image with its part in each fold.

        Raises:
            RunError: another kind of task, other labels, another input, or a fold of which the teacher saw a test
            image.
        """
        run = self.run
        run.folds()
        same = {
            "kind of task": (run.recipe.task, recipe.task),
            "labels": (run.labels, labels),
            "kind of image": (run.recipe.data.kind, recipe.data.kind),
            "model.side": (run.recipe.model.side, recipe.model.side),
        }
        for what, (own, wanted) in same.items():
            if own != wanted:
                raise RunError(
                    f"expected a teacher with the student's {what}, {wanted}, got {own} in {run.path}; take another "
                    "teacher, or train one on the same data with the same settings"
                )
        taught = {row["image"]: row for row in read_csv(run.path / SPLITS)}
        for name in (name for name in rows[0] if name.startswith("fold_")):
            seen = {image for image, row in taught.items() if row.get(name) in ("train", "validation")}
            wrong = [row["image"] for row in rows if row[name] == "test" and row["image"] in seen]
            if wrong or name not in next(iter(taught.values())):
                raise RunError(
                    f"expected a teacher that saw no test image in any fold, got one that learned from {len(wrong)} of "
                    f"those of {name}, such as {wrong[0] if wrong else 'all'}; train it with the same recipe section "
                    "`split` on the same data"
                )

    def apply(self, task: Task, fold: int | None, settings: Distillation) -> Task:
        """The task of a fold, or if None of all images, with this teacher's terms."""
        if fold is None and not self.run.done(None):
            refit(self.run, split_records(self.run, read_again(self.run, None)[0]))
        return Distilled(task, load_task(self.run, fold), settings)


def open_teacher(path: Path) -> Teacher:
    """The run folder of a teacher.

    Raises:
        RunError: it is none, or is not finished.
    """
    run = open_run(path)
    run.folds()
    return Teacher(run)


def teacher_of(run: Run) -> Teacher | None:
    """Who taught a run; None: nobody.

    Raises:
        RunError: the teacher's run is not there any more, or has changed.
    """
    facts = run.facts.get("teacher")
    if facts is None:
        return None
    teacher = open_teacher(Path(facts["run"]))
    if teacher.sha256 != facts["sha256"]:
        raise RunError(
            f"expected at {facts['run']} the teacher of {run.path}, got other models; give back the same ones, or "
            "train the student again"
        )
    return teacher
