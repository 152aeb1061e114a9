"""`leanmed demo`: every step on made data, in the order a user takes them on his own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from leanmed.compress.distil import Teacher
from leanmed.cores import available_cores
from leanmed.evaluation.runs import evaluate_run
from leanmed.exporting.export import export
from leanmed.files import put_aside, whole_folder, write_json
from leanmed.outputs import Output
from leanmed.papers.nerves import by_points
from leanmed.papers.nodules import found_in_scans
from leanmed.papers.prostate import dice_of_volumes
from leanmed.phantoms.chest import write_slices
from leanmed.phantoms.eyelids import PHANTOMS
from leanmed.phantoms.nerves import write_nerves
from leanmed.phantoms.prostates import write_prostates
from leanmed.phantoms.scans import write_luna16
from leanmed.reading.images import find_inputs, read_image
from leanmed.report.report import write_report
from leanmed.runtime.batch import predict_file
from leanmed.runtime.predictor import load
from leanmed.tasks.recipes import load_recipe
from leanmed.training.train import train

COUNT = 360  # photographs, or slices
SIGNAL = 3.0  # standard deviations between the classes' mean colours: easy, learnt in a minute
SCANS, FIRST_SCAN = 2, 10_000  # seeds from here on: chests that no slice was cut from
SITES, CASES = 3, 3  # of MR volumes, and how many each site has
SLICES, SIDE = 8, 64  # of each volume, in pixels
OTHER_SITES = 1  # a seed: of other scanners, or other patients, than those that are learned from
PATIENTS, FRAMES, BEAM = 24, 4, 96  # of ultrasound, frames of each, and pixels along the side of a frame
NEW_PATIENTS = 12  # of whom one frame each is predicted
MARK = "phantoms/phantoms.json"
DEMO = Output(
    "a demo",
    ("note",),
    MARK,
    (
        "phantoms",
        "teacher",
        "run",
        "report",
        "artifact",
        "answers.jsonl*",
        "answers-*",
        "predictions.jsonl*",
        "predictions-*",
        "pictures",
        "leanmed-audit",
    ),
)


@dataclass(frozen=True)
class Demo:
    """What sets one demo apart from the other.

    Args:
        command: that starts it.
        recipe: what is trained.
        things: what is made, with its number.
        make: writes them to a new folder, `phantoms`.
        data, inputs, answers: what is learnt from, what is predicted, and the file of the answers, below the demo's
            folder.
        teacher: `--set` values that turn the recipe into that of a teacher, which is trained first; None: there is
            none.
        found: of the file of answers and the folder of what was predicted, a line on how well that went; None: there
            is nothing to compare with.
        beside: folders beside the answers, each with what it holds.
        pictures: what the folder `pictures` shows of each input; empty: there is none.
        fold: whose model is exported; None: one of all images, which takes another training.
        small: its network is so small that PyTorch is quicker on one thread than on several.
    """

    command: str
    recipe: str
    things: Callable[[], str]
    make: Callable[[Path], None]
    data: str
    inputs: str
    answers: str
    teacher: tuple[str, ...] | None = None
    found: Callable[[Path, Path], str] | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    pictures: str = ""
    fold: int | None = None
    small: bool = False


def _make_eyelids(root: Path) -> None:
    PHANTOMS["eyelids"](root, count=COUNT, signal=SIGNAL, sites=3, copies=0.2, seed=0)


def _make_ct(root: Path) -> None:
    with whole_folder(root) as folder:
        write_slices(folder / "slices", COUNT)
        write_luna16(folder / "scans", SCANS, FIRST_SCAN, spacing=(1.0, 1.0, 2.5))
        write_json(folder / Path(MARK).name, {"note": "made data, no patients", "slices": COUNT, "scans": SCANS})


def _make_ultrasound(root: Path) -> None:
    with whole_folder(root) as folder:
        write_nerves(folder / "learn", PATIENTS, FRAMES, BEAM)
        write_nerves(folder / "new", NEW_PATIENTS, 1, BEAM, seed=OTHER_SITES)
        about = {"note": "made data, no patients", "images": PATIENTS * FRAMES + NEW_PATIENTS}
        write_json(folder / Path(MARK).name, about)


def _make_mr(root: Path) -> None:
    with whole_folder(root) as folder:
        write_prostates(folder / "sites", CASES, SITES, SIDE, SLICES)
        write_prostates(folder / "volumes", SCANS, 1, SIDE, SLICES, seed=OTHER_SITES)
        about = {"note": "made data, no patients", "sites": SITES, "volumes": SITES * CASES + SCANS}
        write_json(folder / Path(MARK).name, about)


EYELIDS = Demo(
    command="leanmed demo",
    recipe="demo",
    things=lambda: f"{COUNT} photographs of eyelids",
    make=_make_eyelids,
    data="phantoms",
    inputs="phantoms/images",
    answers="predictions.jsonl",
)
NODULES = Demo(
    command="leanmed demo --nodules",
    recipe="demo-nodules",
    things=lambda: f"{COUNT} slices of chest CT and {SCANS} whole scans",
    make=_make_ct,
    data="phantoms/slices",
    inputs="phantoms/scans",
    answers="answers.jsonl",
    found=found_in_scans,
    beside={"montages": "the best candidates of each scan"},
)
PROSTATE = Demo(
    command="leanmed demo --prostate",
    recipe="demo-prostate",
    things=lambda: f"{SITES * CASES} MR volumes of {SITES} sites, and {SCANS} of another",
    make=_make_mr,
    data="phantoms/sites",
    inputs="phantoms/volumes",
    answers="answers.jsonl",
    teacher=(
        "model.backbone=mobilenetv2_035",
        "segmenter.loss=dice",
        "training.epochs=10",
        "training.patience=10",
    ),
    found=dice_of_volumes,
    beside={"montages": "the outlines in each volume", "files": "each volume's mask as NIfTI"},
)

NERVES = Demo(
    command="leanmed demo --nerves",
    recipe="demo-nerves",
    things=lambda: f"{PATIENTS * FRAMES} frames of ultrasound, and {NEW_PATIENTS} of other patients",
    make=_make_ultrasound,
    data="phantoms/learn",
    inputs="phantoms/new/images",
    answers="answers.jsonl",
    found=by_points,
    beside={"files": "the masks as PNG"},
    pictures="each new frame with its mask and the point that the localiser found",
    fold=0,
    small=True,
)


def run_demo(out: Path, demo: Demo = EYELIDS, *, overwrite: bool = False, tell: Callable[[str], None] = print) -> None:
    """Make data, train, evaluate, export, predict; everything lands in `out`.

    Args:
        out: the folder to write.
        demo: which one.
        overwrite: replace an older demo in `out`, which is kept if a step fails.
        tell: takes one line of progress at a time.

    Raises:
        OutputError: `out` holds something; with `overwrite`, something else than a demo.
    """
    DEMO.check(out, overwrite=overwrite)
    with put_aside(out):
        _take_steps(out, demo, tell)


def _take_steps(out: Path, demo: Demo, tell: Callable[[str], None]) -> None:
    if demo.small:
        torch.set_num_threads(1)
    tell(f"1  making {demo.things()}: made data, no patients")
    demo.make(out / "phantoms")
    teacher = None
    if demo.teacher is not None:
        tell("2  training the teacher, and then the student that learns from it")
        recipe = load_recipe(demo.recipe, demo.teacher)
        teacher = Teacher(train(recipe, out / demo.data, out / "teacher", tell=tell))
    else:
        tell("2  training")
    run = train(load_recipe(demo.recipe), out / demo.data, out / "run", teacher=teacher, tell=tell)
    tell("3  evaluating, each fold on images it has not seen")
    report = evaluate_run(run, command=demo.command)
    write_report(out / "report", report, read=read_image)
    tell("4  exporting")
    export(run, out / "artifact", fold=demo.fold, teacher=teacher, tell=tell)
    tell("5  predicting without torch")
    predictor = load(out / "artifact")
    inputs = list(find_inputs([str(out / demo.inputs)], scans=predictor.takes_scans))
    draw = out / "pictures" if demo.pictures else None
    predict_file(predictor, inputs, out / demo.answers, workers=available_cores(), draw=draw)
    figure = report.figures[report.main_score]
    name = report.terms[report.main_score].title
    tell(f"{name} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}) on made data")
    if demo.found:
        tell(demo.found(out / demo.answers, out / demo.inputs))
    for ending, what in demo.beside.items():
        tell(f"open {out / Path(demo.answers).stem}-{ending}: {what}")
    if draw:
        tell(f"open {draw}: {demo.pictures}")
    tell(f"open {out / 'report' / 'report.html'}")
