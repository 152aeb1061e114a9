"""Records to batches of prepared tensors, each read and resized once, then kept as far as the cap allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from leanmed.data import read_pixels
from leanmed.errors import DataError, InputError
from leanmed.records import Record
from leanmed.tasks.base import Batch, Size, Task

Sized = tuple[Tensor, Size]  # a prepared input, and the size of the image it was made of


class Cache:
    """Prepared inputs, kept until `room` bytes are used up; folds prepare alike, and share one cache."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[tuple[Path, int | None], Sized] = {}

    def get(self, record: Record, prepare: Callable[[], Sized]) -> Sized:
        """What was kept of a record's image, else what `prepare` makes of it."""
        key = record.image, record.frame
        if key in self._kept:
            return self._kept[key]
        prepared = prepare()
        if prepared[0].nbytes <= self.room:
            self.room -= prepared[0].nbytes
            self._kept[key] = prepared
        return prepared


class Prepared(Dataset[Batch]):
    """Prepared inputs and encoded targets of a list of records.

    Args:
        records: what to read.
        task: prepares pixels and encodes targets.
        cache: keeps prepared inputs; what has no room there is read again each time.
    """

    def __init__(self, records: Sequence[Record], task: Task, cache: Cache) -> None:
        self.records, self.cache = records, cache
        self.prepare, self.encode = task.prepare, task.encode
        about = task.manifest()["input"]
        self.side = about["side"] if about.get("reduced", True) else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Batch:
        record = self.records[index]
        image, size = self._sized(record)
        return image, self.encode(record, size)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def sizes(self) -> list[Size]:
        """Height and width of each image, in the records' order."""
        return [self._sized(record)[1] for record in self.records]

    def _sized(self, record: Record) -> Sized:
        def prepare() -> Sized:
            pixels = read_pixels(record, side=self.side)
            return self.prepare(pixels), (pixels.shape[0], pixels.shape[1])

        return self.cache.get(record, prepare)


def check_readable(records: Sequence[Record]) -> None:
    """Decode every image once, before any training starts.

    Raises:
        DataError: naming every file that cannot be read, and why.
    """
    failed = []
    for record in records:
        try:
            read_pixels(record)
        except InputError as error:
            failed.append(f"{record.id}: {error}")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(records)} images cannot be read; mend or remove them (and their rows):\n"
            + "\n".join(failed)
        )


def training_batches(data: Prepared, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> DataLoader[Batch]:
    """Shuffled batches whose order is a function of seed and epoch alone, and disjoint between ranks."""
    sampler: DistributedSampler[Batch] = DistributedSampler(data, world, rank, shuffle=True, seed=seed)
    # A last batch of one image has no variance for batch normalisation to learn from.
    return DataLoader(data, batch_size, sampler=sampler, drop_last=len(sampler) > batch_size)


def ordered_batches(data: Prepared, batch_size: int) -> DataLoader[Batch]:
    """Every record once, in its order."""
    return DataLoader(data, batch_size)


@torch.inference_mode()
def outputs_of(task: Task, batches: DataLoader[Batch]) -> tuple[Tensor, Tensor]:
    """Outputs of the task's forward and targets over all batches, on the CPU."""
    device = next(task.parameters()).device
    was_training = task.training
    task.eval()
    pairs = [(task(images.to(device)).cpu(), targets) for images, targets in batches]
    task.train(was_training)
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
