"""Distillation: a student learns from labels and from a teacher, a larger model of the same task.

It is a technique of the shape task -> task: the student's task with the teacher's terms added to its loss, and nothing
else changed. What is kept of a training is the student alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leanmed.compress import distil_terms as terms
from leanmed.errors import RecipeError, RunError
from leanmed.evaluation.runs import read_again, split_records
from leanmed.files import sha256_file, sha256_json
from leanmed.models.familiarity import Watched
from leanmed.recipe.recipe import Distillation, Recipe
from leanmed.records import Record
from leanmed.runs import MODEL, RUN, SPLITS, Run, read_csv
from leanmed.tasks.base import Batch, FurtherGraph, Named, Scorer, Size, Task
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import Answer
from leanmed.tasks.recipes import open_run
from leanmed.training.fit import refit

AFFINITY, KERNEL, LOGITS = 0.9, 0.9, 0.2  # the prostate paper's weights
PLANE = 4  # axes of maps: (b, c, h, w)


@dataclass(frozen=True)
class Pair:
    """What student and teacher make of one batch (see `Task.reveal`), and where there is a truth (see `Task.known`)."""

    student: Named
    teacher: Named
    known: Tensor | None = None

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

    @property
    def matched(self) -> bool:
        """Whether the logits of both are of the same classes and places."""
        (own, wanted), places = self.logits, [revealed.get("places") for revealed in (self.student, self.teacher)]
        if own.shape != wanted.shape or (places[0] is None) != (places[1] is None):
            return False
        return places[0] is None or places[1] is None or torch.allclose(places[0], places[1], rtol=1e-3)


def weights_of(settings: Distillation, pair: Pair) -> dict[str, float]:
    """The terms to learn by, with their weights.

    Raises:
        RecipeError: a term that such outputs do not allow has a weight, or none has one.
    """
    hindered = _hindrances(settings, pair)
    paper = {"affinity": AFFINITY, "kernel": KERNEL, "logits": LOGITS}
    if settings.between == "labels" and hindered["affinity"]:
        paper["affinity"] = 0.0
    if hindered["logits"]:
        paper["logits"] = 0.0
    asked = {name: getattr(settings, name) for name in hindered}
    weights = {name: paper[name] if weight is None else weight for name, weight in asked.items()}
    for name, weight in weights.items():
        if weight and hindered[name]:
            raise RecipeError(
                f"expected distillation.{name} to be 0, since {hindered[name]}, got {weight:g}; set it to 0, or take "
                "another network or teacher"
            )
    if not any(weights.values()):
        raise RecipeError("expected a weight above 0 for some term of distillation, got none; set one, or no --teacher")
    return {name: weight for name, weight in weights.items() if weight}


def _hindrances(settings: Distillation, pair: Pair) -> dict[str, str]:
    """Why each term is not to be had of such outputs; empty: it is."""
    unmatched = "" if pair.matched else "the logits of student and teacher are not of the same classes and places"
    masks = all(logits.ndim == PLANE for logits in pair.logits)
    no_masks = unmatched or ("" if masks else "this kind of task has no logits of neighbouring pixels")
    maps = all(features.ndim == PLANE for both in pair.features for features in both)
    no_maps = "" if maps else "the features of student or teacher are not maps of places"
    return {
        "affinity": no_maps if settings.between == "features" else no_masks,
        "kernel": no_maps if settings.gram == "channel" else "",
        "logits": unmatched,
        "soft_targets": unmatched,
        "attention": no_maps,
        "emkd": no_masks or no_maps,
        "mskd": unmatched or no_maps,
    }


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

    """

    def __init__(self, student: Task, teacher: Task, settings: Distillation) -> None:
        super().__init__()
        self.student, self.settings = student, settings
        self.main_score = student.main_score
        # In a list, so that it is no part of this module; laid out as a student is, which is faster on a CPU.
        self._teacher = [teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)]
        self.weights: dict[str, float] = {}
        self.projection: nn.Module | None = None

    @property
    def kept(self) -> Task:
        """The student."""
        return self.student

    def begin(self, data: Iterable[Batch]) -> list[str]:
        """As the student; and find out from the first image what its outputs allow.

        Raises:
            RecipeError: a term has a weight that such outputs do not allow, or none has one, or the teacher was
                trained on images that were prepared otherwise.
        """
        lines = self.student.begin(data)
        self._check_prepared_alike()
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

    def _check_prepared_alike(self) -> None:
        """Refuse a teacher for whom the student's inputs are not what it was trained on."""
        pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        own, taught = self.student.prepare(pixels), self._teacher[0].prepare(pixels)
        if own.keys() != taught.keys() or not all(torch.equal(own[name], taught[name]) for name in own):
            shapes = [", ".join(str(tuple(tensor.shape)) for tensor in named.values()) for named in (own, taught)]
            raise RecipeError(
                f"expected a teacher whose images are prepared as the student's are, {shapes[0]}, got another one, "
                f"{shapes[1]}; give both recipes the same model.side and number of slices"
            )

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
        pair = replace(self.pair(batch.inputs), known=self.student.known(batch.targets))
        total = self.student.loss_of(pair.student, batch.targets)
        for name, weight in self.weights.items():
            total = total + weight * self.term(name, pair)
        return total

    def term(self, name: str, pair: Pair) -> Tensor:
        """One term, unweighted."""
        settings, known = self.settings, pair.known
        if name == "affinity" and settings.between == "features":
            return terms.feature_affinity(*pair.deepest)
        if name == "affinity":
            return terms.affinity(*pair.logits, margin=settings.margin, known=known)
        if name == "kernel":
            own, taught = pair.deepest
            return terms.kernel(self.projection(own) if self.projection else own, taught, gram=settings.gram)
        if name == "logits":
            return terms.logits(*pair.logits, direction=settings.direction, known=known)
        if name == "soft_targets":
            return terms.soft_targets(*pair.logits, temperature=settings.temperature, known=known)
        if name == "attention":
            return terms.attention(*pair.deepest)
        both = zip(pair.logits, pair.features, strict=True)
        return {"emkd": terms.emkd, "mskd": terms.mskd}[name](*both, temperature=settings.temperature, known=known)

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

    def watched(self) -> Watched | None:
        """As the student, which is a part of this."""
        own = self.student.watched()
        return own and own.below("student")

    def answers(self, outputs: Mapping[str, Tensor], sizes: Sequence[Size] | None = None) -> Sequence[Answer]:
        """As the student."""
        return self.student.answers(outputs, sizes)

    def graph(self) -> nn.Module:
        """As the student."""
        return self.student.graph()

    def further_graphs(self) -> Mapping[str, FurtherGraph]:
        """As the student."""
        return self.student.further_graphs()

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
        data: where its images lie; None: where it found them.
        fold: whose model teaches a run of one fold; None: each fold's teaches the same fold.
    """

    run: Run
    data: Path | None = None
    fold: int | None = None

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
            image or another one of its group.
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
        remedy = "train it with the same recipe section `split` on the same data"
        taught = read_csv(run.path / SPLITS)
        folds = [name for name in rows[0] if name.startswith("fold_")]
        if len(folds) > run.facts["folds"]:
            raise RunError(
                f"expected a teacher with a model for each of the student's {len(folds)} folds, got {run.path} with "
                f"{run.facts['folds']}; {remedy}"
            )
        whole = "image" if recipe.split.protocol == "paper" else "group"  # what the student's split keeps whole
        unit = {row["image"]: row[whole] for row in rows}
        for name in folds:
            column = name if self.fold is None else f"fold_{self.fold}"
            seen = {unit.get(row["image"]) for row in taught if row[column] in ("train", "validation")}
            wrong = [row["image"] for row in rows if row[name] == "test" and row[whole] in seen]
            if wrong:
                raise RunError(
                    f"expected a teacher that saw no test image in any fold, nor others of its group, got {run.path}, "
                    f"which learned from {len(wrong)} of those of {name} or from their groups, such as {wrong[0]}; "
                    f"{remedy}"
                )

    def apply(self, task: Task, fold: int | None, settings: Distillation) -> Task:
        """The task of a fold, or if None of all images, with this teacher's terms."""
        if fold is None and not self.run.done(None):
            records = split_records(self.run, read_again(self.run, self.data)[0])
            refit(self.run, records, teacher=teacher_of(self.run, self.data))
        return Distilled(task, load_task(self.run, fold if self.fold is None else self.fold), settings)


def open_teacher(path: Path) -> Teacher:
    """The run folder of a teacher.

    Raises:
        RunError: it is none, or is not finished.
    """
    run = open_run(path)
    run.folds()
    return Teacher(run)


def teacher_of(run: Run, data: Path | None = None, moved: Path | None = None) -> Teacher | None:
    """Who taught a run; None: nobody.

    Args:
        run: of the student.
        data: where the student's images lie now, and the teacher's if it was trained on the same folder; None: where
            they lay.
        moved: where the teacher's run lies now; None: where it lay.

    Raises:
        RunError: the teacher's run is not there any more, or has changed; or one is named of a run that has none.
    """
    facts = run.facts.get("teacher")
    if facts is None:
        if moved is not None:
            raise RunError(f"expected no teacher, since {run.path} was trained without one, got {moved}; leave it out")
        return None
    path = moved or Path(facts["run"])
    if not (path / RUN).is_file():
        raise RunError(
            f"expected at {path} the run that taught {run.path}, got none; name the folder that it lies in now with "
            "--teacher"
        )
    found = open_teacher(path)
    if found.sha256 != facts["sha256"]:
        raise RunError(
            f"expected at {path} the teacher of {run.path}, got other models; name the same ones with --teacher, or "
            "train the student again"
        )
    return replace(found, data=data) if found.run.facts["data"] == run.facts["data"] else found
