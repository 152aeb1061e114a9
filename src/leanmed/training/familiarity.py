"""While a run trains: what its networks see of images, by which an artifact tells how familiar an image looks.

Each fold keeps the normal distribution that is fitted to its training images, and how far its validation and test
images, which it was not trained on, lie from these. When all folds have answered, the distances of all folds'
validation images make the scale from a distance to a share (`leanmed.figures.familiarity`), as their answers make the
temperature. A fold's own scale leaves out the images of the groups that it is tested on, so that it can be counted how
many of its test images it suspects. Test images make no scale: where each site is tested by a model of the others, what
is unlike the training images would become usual by it.

A model of all images has no unseen ones: it keeps the distribution of all of them, as its own network sees them, and
the scale of all folds. Each distance was measured in the space of the network that had not seen the image; as all are
in units of what is usual among training images, those of different networks can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from leanmed.figures.familiarity import LEAST_IMAGES, Scale
from leanmed.files import whole_file, write_json
from leanmed.models.familiarity import Descriptor, Familiarity
from leanmed.records import Record
from leanmed.runs import DISTANCES, FAMILIARITY, Run
from leanmed.tasks.base import Task
from leanmed.training.batches import Prepared, look_at_part

MOST_IMAGES = 2000  # that a distribution is fitted to; more change it little
Distances = dict[str, float]
"""By the record's id."""


@dataclass(frozen=True)
class Scales:
    """From distances to shares.

    Args:
        folds: each fold's, made of no image of a group that the fold is tested on.
        whole: of a model of all images, or of all folds, made of all folds' validation images.
    """

    folds: Sequence[Scale]
    whole: Scale


def keep_familiarity(
    folder: Path,
    task: Task,
    training: Sequence[Record],
    unseen: Mapping[str, tuple[Sequence[Record], Sequence[Descriptor]]],
    batch_size: int,
) -> None:
    """Write what a network makes of its training images, and how far others are from them.

    Nothing is written where the network is not watched, or has fewer than `LEAST_IMAGES` training images.

    Args:
        folder: of a fold, or of the refit.
        task: trained.
        training: what it was trained on.
        unseen: by the name of a part, images that it was not trained on, and what it saw of these batch by batch.
        batch_size: at which training images are looked at.
    """
    if task.watched() is None or len(training) < LEAST_IMAGES:
        return
    chosen = training[:: -(-len(training) // MOST_IMAGES)]
    fitted = Familiarity.fit(stacked(list(look_at_part(task, Prepared(chosen, task, None), batch_size))))
    with whole_file(folder / FAMILIARITY) as temporary:
        temporary.write_bytes(save(dict(fitted.named_buffers())))
    if unseen:
        write_json(folder / DISTANCES, {part: _distances(fitted, *own) for part, own in unseen.items()})


def _distances(fitted: Familiarity, records: Sequence[Record], seen: Sequence[Descriptor]) -> Distances:
    found = fitted.distance(stacked(seen)).tolist()
    return {record.id: distance for record, distance in zip(records, found, strict=True)}


def stacked(parts: Sequence[Descriptor]) -> Descriptor:
    """Descriptors of some images each as one, on the CPU."""
    means, spreads = (torch.cat([part.cpu() for part in own]) for own in zip(*parts, strict=True))
    return Descriptor(means, spreads)


def load_familiarity(run: Run, fold: int | None) -> Familiarity | None:
    """What a fold's network, or if None that of all images, makes of its training images; None: it was not kept."""
    file = run.folder(fold) / FAMILIARITY
    return Familiarity(**load_file(file)) if file.is_file() else None


def read_distances(run: Run, fold: int) -> dict[str, Distances] | None:
    """How far a fold's `validation` and `test` images are from its training images; None: it was not kept."""
    file = run.folder(fold) / DISTANCES
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def scales_of(
    distances: Sequence[Distances | None], units: Mapping[str, str], tested: Sequence[set[str]]
) -> Scales | None:
    """The scales of a run; None: a fold kept no distances, or they are too few.

    Args:
        distances: of each fold's validation images.
        units: what the split keeps whole of each record.
        tested: the units that each fold is tested on.
    """
    known = [own for own in distances if own is not None]
    if len(known) < len(distances):
        return None
    every = [(units[name], distance) for own in known for name, distance in own.items()]
    folds = [Scale.of([distance for unit, distance in every if unit not in held]) for held in tested]
    whole = Scale.of([distance for _, distance in every])
    kept = [own for own in folds if own is not None]
    return Scales(kept, whole) if whole is not None and len(kept) == len(folds) else None
