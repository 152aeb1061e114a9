from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leanmed import data as reading
from leanmed.errors import DataError
from leanmed.records import Mask, Record
from leanmed.tasks.classification.training import Classification
from leanmed.tasks.recipes import check_recipe
from leanmed.tasks.segmentation.training import Segmentation
from leanmed.training.batches import (
    Cache,
    Prepared,
    answer_part,
    check_readable,
    ordered_batches,
    training_batches,
)

SIDE = 32
BYTES = 4 * SIDE * SIDE  # of one prepared image, in its own type


@pytest.fixture(scope="module")
def task() -> Classification:
    torch.manual_seed(0)
    model = {"backbone": "test_efficientnet", "weights": "none", "side": SIDE}
    return Classification(check_recipe({"name": "tiny", "model": model}, "here"), ("a", "b"))


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Seven photographs of one grey each, 10, 20, ... 70; odd ones are `b`."""
    for k in range(7):
        Image.fromarray(np.full((40, 50, 3), 10 * (k + 1), np.uint8)).save(tmp_path / f"{k}.png")
    return [Record(str(k), tmp_path / f"{k}.png", "ab"[k % 2], f"group-{k}") for k in range(7)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files read."""
    names: list[str] = []
    read = reading.read_image

    def spy(path: Path, **options: Any) -> Any:
        names.append(path.name)
        return read(path, **options)

    monkeypatch.setattr(reading, "read_image", spy)
    return names


def test_a_record_becomes_a_prepared_image_and_its_labels_position(task: Classification, records: list[Record]) -> None:
    inputs, targets = Prepared(records, task, Cache(0))[3]
    image = inputs["image"]
    assert (image.shape, image.dtype) == ((4, SIDE, SIDE), torch.uint8)
    assert (image[:3] == 40).all()
    assert (image[3] == 255).all()
    assert targets["label"].item() == 1


def test_folds_that_share_a_cache_read_each_image_once(
    task: Classification, records: list[Record], reads: list[str]
) -> None:
    cache = Cache(10 * BYTES)
    first, second = Prepared(records, task, cache), Prepared(records[::-1], task, cache)
    before = [first[k].inputs["image"] for k in range(7)]
    assert all(torch.equal(second[6 - k].inputs["image"], before[k]) for k in range(7))
    assert len(reads) == 7


def test_what_has_no_room_is_read_again_and_what_has_is_not(
    task: Classification, records: list[Record], reads: list[str]
) -> None:
    data = Prepared(records, task, Cache(2 * BYTES + BYTES // 2))
    for _ in range(2):
        for k in range(4):
            assert (data[k].inputs["image"][0] == 10 * (k + 1)).all()
    assert reads == ["0.png", "1.png", "2.png", "3.png", "2.png", "3.png"]


def test_unreadable_images_are_all_named_before_anything_starts(records: list[Record], task: Classification) -> None:
    check_readable(records, task.encode)
    records[1].image.write_bytes(b"")
    records[4].image.unlink()
    with pytest.raises(DataError) as caught:
        check_readable(records, task.encode)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("2 of 7 images cannot be read")
    assert [line.split(":")[0] for line in lines] == ["1", "4"]


def test_a_mask_that_cannot_be_read_is_named_before_anything_starts(tmp_path: Path) -> None:
    recipe = {"name": "tiny", "task": "segmentation", "model": {"backbone": "enet", "weights": "none", "side": SIDE}}
    task = Segmentation(check_recipe(recipe, "here"), ("vessel",))
    Image.new("RGB", (12, 8)).save(tmp_path / "eye.png")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    record = Record("eye.png", tmp_path / "eye.png", Mask((tmp_path / "mask.png",), {"vessel": ()}), "p0")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read(.|\n)*eye\.png: (.|\n)*mask\.png"):
        check_readable([record], task.encode)


def test_a_fault_that_slices_share_is_told_once(records: list[Record]) -> None:
    def encode(record: Record, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        if record.id in ("2", "3", "5"):
            raise DataError("case.nii.gz: expected whole slices")
        return {}

    with pytest.raises(DataError) as caught:
        check_readable(records, encode)
    assert str(caught.value).splitlines()[1:] == ["2, 3, 5: case.nii.gz: expected whole slices"]


def order(data: Prepared, epoch: int, **options: int) -> list[list[int]]:
    """The greys of each training batch of an epoch, as numbers of the records."""
    loader = training_batches(data, 2, seed=5, **options)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [[int(image[0, 0, 0]) // 10 - 1 for image in batch.inputs["image"]] for batch in loader]


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch(task: Classification, records: list[Record]) -> None:
    data = Prepared(records, task, Cache(10 * BYTES))
    torch.manual_seed(1)
    first = order(data, epoch=3)
    torch.manual_seed(2)
    assert order(data, epoch=3) == first
    assert order(data, epoch=4) != first


def test_two_processes_train_on_different_images_and_together_on_all(
    task: Classification, records: list[Record]
) -> None:
    data = Prepared(records[:6], task, Cache(0))
    zero, one = (list(training_batches(data, 2, 5, rank, 2).sampler) for rank in (0, 1))
    assert len(zero) == len(one)
    assert sorted([*zero, *one]) == list(range(6))


def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one(
    task: Classification, records: list[Record]
) -> None:
    cache = Cache(10 * BYTES)
    sizes = {
        count: [len(b.targets["label"]) for b in training_batches(Prepared(records[:count], task, cache), 3, 0)]
        for count in (2, 3, 4, 7)
    }
    assert sizes == {2: [2], 3: [3], 4: [3], 7: [3, 3]}


def test_outputs_are_in_the_records_order_and_leave_the_tasks_mode(task: Classification, records: list[Record]) -> None:
    data = Prepared(records, task, Cache(10 * BYTES))
    task.train()
    state = {name: value.clone() for name, value in task.state_dict().items()}
    answers = list(answer_part(task, data, 3))
    assert task.training
    task.eval()
    seen = task.scorer()
    for batch in ordered_batches(data, 3):
        seen.add(task(batch.inputs), batch.targets)
    logits, labels = seen.gathered()
    assert all(torch.equal(value, state[name]) for name, value in task.state_dict().items())
    assert labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert [record.id for record, _ in answers] == list("0123456")
    one_by_one = torch.cat([task({"image": data[k].inputs["image"][None]})["logits"].detach() for k in range(7)])
    assert torch.allclose(logits, one_by_one, atol=1e-5)
    probabilities = task.probabilities(one_by_one)[:, 1].tolist()
    assert [answer.as_json()["probability"] for _, answer in answers] == pytest.approx(probabilities, abs=1e-5)


def test_no_gradient_is_kept_while_a_part_is_answered_and_others_are_afterwards(
    task: Classification, records: list[Record]
) -> None:
    for _ in answer_part(task, Prepared(records, task, Cache(0)), 3):
        assert not torch.is_inference_mode_enabled(), "whoever takes the answers may compute with gradients"
