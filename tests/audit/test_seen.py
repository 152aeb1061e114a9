from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from leanmed.audit.grouping import Known, group_for_artifact
from leanmed.audit.seen import make_traces, meet
from leanmed.audit.traces import Traces
from leanmed.data import content_hashes, read_records
from leanmed.manifest import Provenance, image_mark
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.recipe.recipe import Split
from leanmed.records import Record

TRAINED = 12  # of 24 images


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Record]:
    """Twenty-four made eyelids, each of its own."""
    return read_records("folder", PHANTOMS["eyelids"](tmp_path_factory.mktemp("seen") / "data", count=24, seed=7))


@pytest.fixture(scope="module")
def trained(records: Sequence[Record]) -> list[Record]:
    return list(records)[:TRAINED]


@pytest.fixture(scope="module")
def origin(trained: list[Record]) -> Provenance:
    marks = tuple(sorted(map(image_mark, content_hashes(trained))))
    return Provenance(leanmed="0", data_sha256="", seed=0, protocol="grouped", fold=0, seen_images=marks)


@pytest.fixture(scope="module")
def traces(trained: list[Record]) -> bytes:
    return make_traces(trained, None)


@pytest.fixture
def elsewhere(records: Sequence[Record], tmp_path: Path) -> Known:
    """Another hospital's folder: three trained images, flipped and saved anew, and the images that are new."""
    folder = tmp_path / "elsewhere" / "images"
    folder.mkdir(parents=True)
    for number, record in enumerate([*list(records)[:3], *list(records)[TRAINED:]]):
        if number < 3:
            with Image.open(record.image) as image:
                image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"copy-{number}.png")
        else:
            shutil.copy(record.image, folder / f"new-{number:02}.png")
    rows = "".join(f"images/{path.name},x\n" for path in sorted(folder.iterdir())[:-1])
    (folder.parent / "labels.csv").write_text(f"image,label\n{rows}images/{sorted(folder.iterdir())[-1].name},y\n")
    return group_for_artifact(read_records("folder", folder.parent), Split(), None)


def test_each_trained_image_leaves_a_trace(traces: bytes) -> None:
    assert len(Traces.from_bytes(traces).counts) == TRAINED
    assert len(traces) < 300 * TRAINED


def test_changed_copies_are_recognised_without_the_images_they_were_made_of(
    elsewhere: Known, origin: Provenance, traces: bytes
) -> None:
    met = meet(elsewhere, origin, traces, None)
    assert sorted(Path(record.id).name[:4] for record in met.unseen) == ["new-"] * 12
    assert f"{TRAINED} of {TRAINED} images that made the artifact are not in this data set" in met.notes[0]
    assert "3 images here are taken for changed copies" in met.notes[0]


def test_without_traces_they_count_as_new_and_the_note_says_that_nobody_can_tell(
    elsewhere: Known, origin: Provenance
) -> None:
    met = meet(elsewhere, origin, b"", None)
    assert len(met.unseen) == 15
    assert "Changed copies of them and other images of their patients cannot be recognised" in met.notes[0]


def test_traces_that_cannot_be_read_are_told_and_nothing_fails(elsewhere: Known, origin: Provenance) -> None:
    met = meet(elsewhere, origin, b"of another version", None)
    assert len(met.unseen) == 15
    assert "traces of its training images cannot be used" in met.notes[1]


def test_where_all_training_images_are_at_hand_pixels_decide_and_nothing_is_noted(
    records: Sequence[Record], origin: Provenance, traces: bytes
) -> None:
    known = group_for_artifact(records, Split(groups="reader"), None)
    met = meet(known, origin, traces, None)
    assert met.unseen == list(records)[TRAINED:]
    assert met.notes == []


def test_slices_of_volumes_leave_no_trace(trained: list[Record]) -> None:
    from dataclasses import replace

    assert make_traces([replace(record, frame=0) for record in trained], None) == b""
