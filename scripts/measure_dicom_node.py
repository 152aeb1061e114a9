"""The node beside Orthanc: round trips by C-STORE and DICOMweb, what checkers say, and kills at random points.

    python scripts/measure_dicom_node.py --kills 20 --out docs/results/dicom_node.json

Orthanc (with its DICOMweb plugin), dciodvfy and dcmdump come from the Debian packages orthanc, orthanc-dicomweb,
dicom3tools and dcmtk. CT and artifacts are made: the artifacts answer by fixed rules and hardly compute, so that the
seconds are those of the node, of writing the answers and of Orthanc.
"""

from __future__ import annotations

import random
import shlex
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from leanmed.benchmark.benchmark import machine
from leanmed.dicom_node.command import store_of
from leanmed.dicom_node.config import read_config
from leanmed.files import write_json
from leanmed.tasks.drawing import outlined

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "dicom_node"), str(TESTS / "compress"), str(TESTS)]

from node_fixtures import (  # noqa: E402  # noqa: E402
    STUDY,
    WRITERS,
    NodeProcess,
    Pacs,
    chest_series,
    free_port,
    store,
    wait_for,
    wedge_series,
    write_config,
)
from orthanc_process import Orthanc  # noqa: E402
from test_orthanc import CHECKERS, RULES, errors_of  # noqa: E402

SLICES, KILL_SLICES, PAUSE = 30, 12, 1.0


def round_trip(root: Path, by: str, number: int, picture: Path | None) -> dict[str, Any]:
    """CT into Orthanc, from there to the node, answers back, read and checked."""
    node_port = free_port()
    orthanc = Orthanc(root / f"orthanc-{by}", node_port).start()
    files = chest_series(root / f"ct-{by}", SLICES, StudyInstanceUID=(study := f"{STUDY}.{number}"))
    store(orthanc.dicom_port, files, called="ORTHANC")
    config = write_config(
        root / f"{by}.yaml", RULES, getattr(orthanc, by), port=node_port, calling=["ORTHANC"], pause_seconds=PAUSE,
        store=f"store-{by}",
    )  # fmt: skip
    artifacts = [WRITERS[rule["artifact"]](root / by / rule["artifact"]) for rule in RULES]
    node = NodeProcess(config, artifacts, root / f"{by}.log").wait_until_it_listens()
    try:
        started = time.perf_counter()
        orthanc.send_to_node(str(dcmread(files[0]).SeriesInstanceUID))
        wait_for(lambda: bool(node.lines("sent")), "no answer was sent", 300)
        seconds = time.perf_counter() - started
        answered = node.lines("answered")[0]["seconds"]
        objects = {m: orthanc.objects(study, uid) for m, uid in orthanc.series_of(study).items() if m != "CT"}
    finally:
        node.stop()
        orthanc.stop()
    verdicts: dict[str, list[str]] = {checker: [] for checker in CHECKERS}
    for modality, contents in objects.items():
        for content in contents:
            path = root / f"{by}-{modality}.dcm"
            path.write_bytes(content)
            for checker, errors in verdicts.items():
                errors += errors_of(checker, path)
    if picture is not None:
        draw(files, root / f"{by}-SEG.dcm", picture)
    return {
        "answers_by": {"peer": "C-STORE", "web": "STOW-RS"}[by],
        "slices": SLICES,
        "seconds_from_first_image_to_last_answer": round(seconds, 2),
        "of_which_pause": PAUSE,
        "of_which_answering": answered,
        "objects": {modality: len(contents) for modality, contents in objects.items()},
        "bytes": {modality: sum(map(len, contents)) for modality, contents in objects.items()},
        "errors": {checker: len(errors) for checker, errors in verdicts.items()},
    }


def draw(files: list[Path], segmentation: Path, out: Path) -> None:
    """Three slices with the SEG over them, as it was read back, each frame on the image that it refers to."""
    images = {str(dcmread(path).SOPInstanceUID): dcmread(path) for path in files}
    read = dcmread(segmentation)
    tiles = []
    for k in (8, 15, 22):
        group = read.PerFrameFunctionalGroupsSequence[k]
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        image = images[str(source)]
        hu = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
        grey = np.clip((hu + 1000) / 1400 * 255, 0, 255).astype(np.uint8)
        size = (4 * grey.shape[1], 4 * grey.shape[0])
        shown = Image.fromarray(grey).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        mask = Image.fromarray(read.pixel_array[k]).resize(size, Image.Resampling.NEAREST)
        tiles.append(np.asarray(outlined(shown, np.asarray(mask))))
    Image.fromarray(np.concatenate(tiles, axis=1)).save(out, optimize=True)


def kills(root: Path, count: int, seed: int) -> dict[str, Any]:
    """Kill the node at random points while series come, are answered and sent; what was acknowledged must be there."""
    chance = random.Random(seed)
    peer = Pacs()
    rules = [RULES[0] | {"description": ""}]
    config = write_config(root / "kills.yaml", rules, peer.peer, pause_seconds=PAUSE, store="store-kills")
    artifact = WRITERS["bright"](root / "kills" / "bright")
    kept = store_of(read_config(config))
    series, acknowledged, points = [], set[str](), []
    for k in range(count):
        uid = generate_uid(entropy_srcs=[str(seed), str(k)])
        series.append(wedge_series(root / f"kill-{k}", slices=KILL_SLICES, SeriesInstanceUID=uid))
        node = NodeProcess(config, [artifact], root / "kills.log").wait_until_it_listens()
        killer = threading.Timer(chance.uniform(0.02, 4.0), node.kill)
        killer.start()
        for files in series[-3:]:  # senders send again what was not acknowledged
            statuses = store(node.port, files)
            named = [str(dcmread(p).SOPInstanceUID) for p, status in zip(files, statuses, strict=False) if status == 0]
            acknowledged |= set(named)
        killer.join()
        points.append({"acknowledged": len(acknowledged), "answers_in_the_pacs": len(peer.objects)})
        on_disk = {str(dcmread(path).SOPInstanceUID) for one in kept.all() for path in one.files}
        if lost := acknowledged - on_disk:
            raise SystemExit(f"{len(lost)} images were acknowledged and are lost")
    node = NodeProcess(config, [artifact], root / "kills.log").wait_until_it_listens()
    for files in series:
        store(node.port, files)
    wait_for(lambda: all(s.state == "sent" and len(s.names) == KILL_SLICES for s in kept.all()), "not all sent", 300)
    node.stop()
    peer.stop()
    sent = [str(one.SOPInstanceUID) for one in peer.objects]
    final = {str(dcmread(path).SOPInstanceUID) for one in kept.all() for path in one.answers.glob("*.dcm")}
    sets = sum(len([p for p in (s.folder / "answers").iterdir() if p.suffix != ".tries"]) for s in kept.all())
    return {
        "kills": count,
        "series": len(series),
        "images_acknowledged_before_a_kill": len(acknowledged),
        "acknowledged_and_lost": 0,
        "answers_to_whole_series": len(final),
        "of_these_in_the_pacs": len(final & set(sent)),
        "sent_again_with_the_same_uid": len(sent) - len(set(sent)),
        "sent_with_another_uid_for_the_same_images": max(0, len(set(sent)) - 2 * sets),
        "at_each_kill": points,
    }


def main(
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    count: Annotated[int, typer.Option("--kills", help="How often the node is killed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the points at which it is killed.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Where to draw the SEG as it was read back.")] = None,
) -> None:
    """Measure, and write it all."""
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        trips = [round_trip(root, by, k, picture if by == "web" else None) for k, by in enumerate(("peer", "web"))]
        found = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine(),
            "orthanc": trips,
            "killed": kills(root, count, seed),
        }
    write_json(out, found)


if __name__ == "__main__":
    typer.run(main)
