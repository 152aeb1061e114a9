"""Records to batches of prepared tensors, each read and resized once, then kept as far as the cap allows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from leanmed.data import read_pixels
from leanmed.data.telling import some
from leanmed.errors import DataError, InputError
from leanmed.models.familiarity import Descriptor, watching
from leanmed.records import Record
from leanmed.tasks.base import Batch, Named, Size, Task
from leanmed.tasks.kind import Answer

Sized = tuple[Batch, Size]  # one prepared input with its target, and the size of the image they were made of


class Cache:
    """Prepared inputs and targets, kept until `room` bytes are used up; folds prepare alike, and share one cache."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[str, Sized] = {}

    def get(self, record: Record, prepare: Callable[[], Sized]) -> Sized:
        """What was kept of a record, else what `prepare` makes of it."""
        if record.id in self._kept:
            return self._kept[record.id]
        prepared = prepare()
        needed = sum(tensor.nbytes for part in prepared[0] for tensor in part.values())
        if needed <= self.room:
            self.room -= needed
            self._kept[record.id] = prepared
        return prepared


class Prepared(Dataset[Batch]):
    """Prepared inputs and encoded targets of a list of records.

    Args:
        records: what to read.
        task: prepares pixels and encodes targets.
        cache: keeps prepared inputs, in their own type, and targets; what has no room there is read again each time.
            None: they are exactly what the graph makes of the image, and are not kept.
    """

    def __init__(self, records: Sequence[Record], task: Task, cache: Cache | None) -> None:
        self.records, self.cache = records, cache
        self.prepare, self.keep, self.encode = task.prepare, task.keep, task.encode
        about = task.manifest()["input"]
        self.side = about["side"] if about.get("reduced", True) else None
        self._sizes: dict[int, Size] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Batch:
        record = self.records[index]
        batch, size = self.cache.get(record, lambda: self._kept(record)) if self.cache else self._prepared(record)
        self._sizes[index] = size
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def size(self, index: int) -> Size:
        """Height and width of an image that was read before."""
        return self._sizes[index]

    def _kept(self, record: Record) -> Sized:
        (inputs, targets), size = self._prepared(record)
        return Batch(self.keep(inputs), targets), size

    def _prepared(self, record: Record) -> Sized:
        pixels = read_pixels(record, side=self.side)
        size = pixels.shape[0], pixels.shape[1]
        return Batch(self.prepare(pixels), self.encode(record, size)), size


def check_readable(records: Sequence[Record], encode: Callable[[Record, Size], Named]) -> None:
    """Decode every image and its truth once, before any training starts.

    Args:
        records: what is to be read.
        encode: takes a record and its image's height and width to targets; see `Task.encode`.

    Raises:
        DataError: naming every record of which a file cannot be read, and why.
    """
    failed: dict[str, list[str]] = defaultdict(list)  # why -> of which records: slices share a volume
    for record in records:
        try:
            height, width = read_pixels(record).shape[:2]
            encode(record, (height, width))
        except (InputError, DataError) as error:
            failed[str(error)].append(record.id)
    if failed:
        raise DataError(
            f"{sum(map(len, failed.values()))} of {len(records)} images cannot be read with what is said of them; mend "
            "or remove them (and their rows):\n"
            + "\n".join(f"{some(names)}: {error}" for error, names in failed.items())
        )


def training_batches(data: Prepared, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> DataLoader[Batch]:
    """Shuffled batches whose order is a function of seed and epoch alone, and disjoint between ranks."""
    sampler: DistributedSampler[Batch] = DistributedSampler(data, world, rank, shuffle=True, seed=seed)
    # A last batch of one image has no variance for batch normalisation to learn from.
    return DataLoader(data, batch_size, sampler=sampler, drop_last=len(sampler) > batch_size)


def ordered_batches(data: Prepared, batch_size: int) -> DataLoader[Batch]:
    """Every record once, in its order."""
    return DataLoader(data, batch_size)


def answer_part(
    task: Task, data: Prepared, batch_size: int, seen: list[Descriptor] | None = None
) -> Iterator[tuple[Record, Answer]]:
    """Each record of a part with the answer to it, in their order, on the device that the task is on.

    `seen` takes what the network saw of them, where it is watched.
    """
    start = 0
    for outputs, described in run_part(task, data, batch_size):
        if seen is not None and described is not None:
            seen.append(described)
        count = len(next(iter(outputs.values())))
        sizes = [data.size(index) for index in range(start, start + count)]
        yield from zip(data.records[start : start + count], task.answers(outputs, sizes), strict=True)
        start += count


def run_part(task: Task, data: Prepared, batch_size: int) -> Iterator[tuple[Named, Descriptor | None]]:
    """The outputs of each batch, in order, and what the network saw of it: None where it is not watched."""
    watched = task.watched()
    for inputs in _inputs_of(task, data, batch_size):
        with torch.inference_mode(), watching(task, watched) as seen:
            outputs = task(inputs)
        yield outputs, seen()


def look_at_part(task: Task, data: Prepared, batch_size: int) -> Iterator[Descriptor]:
    """What a watched network sees of each batch, in order. It runs no further than that takes."""
    watched = task.watched()
    for inputs in _inputs_of(task, data, batch_size):
        with torch.inference_mode(), watching(task, watched, no_further=True) as seen:
            task(inputs)
        described = seen()
        if described is not None:
            yield described


def _inputs_of(task: Task, data: Prepared, batch_size: int) -> Iterator[Named]:
    """Each batch on the device that the task is on, which is in evaluation mode meanwhile."""
    device, was_training = next(task.parameters()).device, task.training
    task.eval()
    for batch in ordered_batches(data, batch_size):
        yield {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    task.train(was_training)
