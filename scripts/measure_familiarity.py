"""Measure how well artifacts recognise images that are unlike those they were trained on.

python scripts/measure_familiarity.py train --data data --work runs
python scripts/measure_familiarity.py measure --data data --work runs --out docs/results/familiarity.json

OMP_NUM_THREADS=1 stands before both.

`train` trains three folds of each model, exports the model of each fold and the model of all images, and quantizes that
of fold 0. It goes on where it was stopped. `measure` asks two things:

* Which of a network's maps tell most? Each choice is judged on the folds' validation images and on every other strange
  image, and never on test images.
* What does an artifact with the chosen ones make of its test images, of the other half of the strange images, and of
  images of a hospital that it has not seen?
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from leanmed.benchmark.benchmark import machine
from leanmed.compress.bench import Options
from leanmed.compress.command import quantize_artifact
from leanmed.compress.gate import latency
from leanmed.data import read_pixels, read_records
from leanmed.errors import QualityError
from leanmed.evaluation.runs import read_again, split_records
from leanmed.exporting.export import export, export_graph, export_model
from leanmed.figures.bootstrap import Floats, with_intervals
from leanmed.figures.familiarity import UNFAMILIAR, Scale
from leanmed.files import defined, write_json
from leanmed.manifest import image_mark
from leanmed.models.familiarity import Descriptor, Familiarity, Tap, Watched, Watching, watching
from leanmed.reading.images import read_image
from leanmed.records import Record
from leanmed.runs import SPLITS, Run, read_csv, write_csv
from leanmed.runtime.artifact import Artifact, read_artifact
from leanmed.runtime.predictor import Predictor
from leanmed.tasks.building import load_task
from leanmed.tasks.kind import MODEL
from leanmed.tasks.recipes import load_recipe, open_run
from leanmed.training.familiarity import load_familiarity, stacked
from leanmed.training.train import train

FOLDS, SIDE, EPOCHS = 3, 96, 5
MOST = 200  # strange images of a kind, half for the choice of maps and half for the figures
MADE = 60  # made images of a kind
RESAMPLES = 1000
WEIGHTS = "weights/mobilenetv2_100_tf_in1k.safetensors"
LEFT_OUT = "Komfo Anokye Teaching Hospital"
LABELS = (
    f"split.folds={FOLDS}",
    f"model.weights={{data}}/{WEIGHTS}",
    "model.backbone_args={pad_type: same}",
    "model.mean=[.5, .5, .5]",
    "model.std=[.5, .5, .5]",
    f"model.side={SIDE}",
    "training.learning_rate=0.0005",
    f"training.epochs={EPOCHS}",
    f"training.patience={EPOCHS}",
    "training.select_by=auc",
    "evaluation.resamples=1000",
)
MASKS = (
    "model.side=192",
    "segmenter.crop=96",
    "split.validation=0.3",
    "training.epochs=3",
    "training.average=0",
    "evaluation.resamples=100",
)
BOXES = (
    f"split.folds={FOLDS}",
    "split.validation=0.3",
    "model.backbone=mobilenetv2_035",
    "model.weights=none",
    "model.side=352",
    "detector.zoom=1",
    "detector.levels=[4]",
    "detector.deepest=16",
    "detector.width=24",
    "detector.depth=1",
    "detector.crop=96",
    "detector.matching=0.4",
    "detector.near=0.3",
    "training.learning_rate=0.004",
    "training.epochs=2",
    "training.average=0.9",
    "evaluation.resamples=100",
)
SLICES = 240
QUARTER, EIGHTH, LAST = Tap("model.backbone.blocks.1"), Tap("model.backbone.blocks.2"), Tap("model.backbone.blocks.6")
CHOICES = {  # by what is watched beside the image itself
    "the image alone": (),
    "one early stage (a quarter of the side)": (QUARTER,),
    "two early stages (a quarter and an eighth)": (QUARTER, EIGHTH),
    "one early stage and the last": (QUARTER, LAST),
    "the last stage": (LAST,),
}
CHOSEN = "two early stages (a quarter and an eighth)"
Pixels = NDArray[np.uint8]
app = typer.Typer(add_completion=False, help=__doc__)


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Args:
        recipe: of the training.
        settings: of it.
        data: makes its data set of the shared data, in a folder.
        own: the strange images that are none to it.
        compared: choose among maps with it, measure what the output costs, and quantize it.
    """

    recipe: str
    settings: tuple[str, ...]
    data: Callable[[Path, Path], None]
    own: str
    compared: bool = False


def breast(data: Path, out: Path) -> None:
    """BUSI's benign and malignant images, with the masks beside them, which the reader passes over."""
    for name in ("benign", "malignant"):
        shutil.copytree(data / "busi" / name, out / name, dirs_exist_ok=True)


def eyelids(data: Path, out: Path) -> None:
    """CP-AnemiC as it is."""
    shutil.copytree(data / "cp-anemic", out, dirs_exist_ok=True)


def eyelids_of_nine(data: Path, out: Path) -> None:
    """CP-AnemiC without the images of one hospital."""
    eyelids(data, out)
    for record in read_records("cp-anemic", out):
        if record.site == LEFT_OUT:
            record.image.chmod(0o644)
            record.image.unlink()


def retina(data: Path, out: Path) -> None:
    """The photographs of the retina of four sites."""
    shutil.copytree(data / "retina-vessels", out, dirs_exist_ok=True)


def nodules(data: Path, out: Path) -> None:
    """The first slices of LUNA16."""
    root = data / "luna16-slices"
    (out / "JPEGImages").mkdir(parents=True)
    rows = read_csv(root / "manifest.csv")[:SLICES]
    for row in rows:
        shutil.copy(root / "JPEGImages" / row["image"], out / "JPEGImages")
    write_csv(out / "manifest.csv", rows)


MODELS = {
    "breast": Model("folder", (*LABELS, "data.labels=[benign, malignant]"), breast, "breast ultrasound", True),
    "eyelids": Model("anemia", LABELS, eyelids, "eyelids", True),
    "eyelids of nine hospitals": Model("anemia", LABELS, eyelids_of_nine, "eyelids"),
    "vessels": Model("retina", (*MASKS, "split.protocol=grouped", f"split.folds={FOLDS}"), retina, "retina"),
    "vessels of three sites": Model("retina", MASKS, retina, "retina"),
    "nodules": Model("nodules", BOXES, nodules, "CT slices"),
}


@app.command("train")
def train_all(
    data: Annotated[Path, typer.Option(help="The folder of the data sets.")],
    work: Annotated[Path, typer.Option(help="Where runs and artifacts go.")],
) -> None:
    """Train, export and quantize every model."""
    for name, model in MODELS.items():
        folder = work / name.replace(" ", "-")
        if not (folder / "data").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            model.data(data, folder / "data")
        recipe = load_recipe(model.recipe, [setting.replace("{data}", str(data)) for setting in model.settings])
        run = train(recipe, folder / "data", folder / "run", resume=True)
        for fold in (None, *range(run.facts["folds"])):
            if not artifact_of(folder, fold).is_dir():
                export(run, artifact_of(folder, fold), fold=fold)
        for precision in ("fp16", "int8") if model.compared else ():
            if not (folder / precision).is_dir() and not (folder / f"{precision}-report").is_dir():
                try:
                    quantize_artifact(artifact_of(folder, 0), precision, folder / "data", folder / precision, Options())
                except QualityError as error:
                    print(error)


def artifact_of(folder: Path, fold: int | None) -> Path:
    """Where the artifact of a fold lies, or if None that of all images."""
    return folder / ("artifact" if fold is None else f"artifact-{fold}")


@app.command()
def measure(
    data: Annotated[Path, typer.Option(help="The folder of the data sets.")],
    work: Annotated[Path, typer.Option(help="Where runs and artifacts are.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    note: Annotated[str, typer.Option(help="What else must be known.")] = "",
) -> None:
    """Write all figures."""
    strange = strangers(data)
    found: dict[str, Any] = {
        "command": shlex.join(["python", "scripts/measure_familiarity.py", *sys.argv[1:]]),
        "note": note,
        "data": "data/busi, data/cp-anemic, data/luna16-slices, data/retina-vessels, data/usgra, and made images",
        "settings": {
            name: [model.recipe, *(setting.replace("{data}", "data") for setting in model.settings)]
            for name, model in MODELS.items()
        },
        "seed": 0,
        "threshold": UNFAMILIAR,
        "intervals": f"95 %, {RESAMPLES} resamples of groups of own images and of strange images",
        "strangers": {name: len(images) for name, images in strange.items()},
        "choices": {},
        "chosen": CHOSEN,
        "artifacts": {},
        "refit": {},
        "quantized": {},
        "cost": {},
    }
    for name, model in MODELS.items():
        folder = work / name.replace(" ", "-")
        run = open_run(folder / "run")
        records, contents = read_again(run, folder / "data")
        others = {kind: images for kind, images in strange.items() if kind != model.own}
        tested = {kind: images[1::2] for kind, images in others.items()}
        if model.compared:
            chosen_by = {kind: images[::2] for kind, images in others.items()}
            found["choices"][name] = choices(run, split_records(run, records), chosen_by)
            found["cost"][name] = cost(run)
            found["quantized"][name] = quantized(folder, run, records, contents, tested)
        if name == "eyelids of nine hospitals":
            tested |= {f"eyelids of {LEFT_OUT}": elsewhere(work)}
        found["artifacts"][name] = of_folds(folder, run, records, tested)
        whole = read_artifact(artifact_of(folder, None))
        found["refit"][name] = {
            "bytes": whole.manifest.familiar.bytes if whole.manifest.familiar else None,
            "found": {kind: share(familiar_of(whole, images)) for kind, images in tested.items()},
        }
    write_json(out, defined({**found, "machine": machine()}))


def strangers(data: Path) -> dict[str, list[Pixels]]:
    """Images of other kinds, decoded; of the files of each kind at most `MOST`, drawn at random."""
    rng = np.random.default_rng(0)

    def files(*patterns: str) -> list[Pixels]:
        paths = [p for pattern in patterns for p in sorted(data.glob(pattern)) if "_mask" not in p.name]
        drawn = rng.permutation(len(paths))[:MOST]
        return [read_image(paths[i]) for i in drawn]

    return {
        "eyelids": files("cp-anemic/*/*.png"),
        "breast ultrasound": files("busi/benign/*.png", "busi/malignant/*.png"),
        "CT slices": files("luna16-slices/JPEGImages/*"),
        "retina": files("retina-vessels/*/images/*"),
        "nerves in ultrasound": files("usgra/images/*"),
        "noise in colour": [rng.integers(0, 256, (200, 300, 3), dtype=np.uint8) for _ in range(MADE)],
        "noise in grey": [rng.integers(0, 256, (200, 300, 1), dtype=np.uint8).repeat(3, 2) for _ in range(MADE)],
        "pages of text": [page(rng) for _ in range(MADE)],
        "blank": [np.full((200, 300, 3), colour, np.uint8) for colour in rng.integers(0, 256, (MADE, 3))],
        "blank in grey": [np.full((200, 300, 3), int(255 * k / (MADE - 1)), np.uint8) for k in range(MADE)],
    }


def page(rng: np.random.Generator) -> Pixels:
    """A white page with lines of made words."""
    image = Image.new("RGB", (600, 800), "white")
    pen = ImageDraw.Draw(image)
    for y in range(40, 760, 22):
        words = ("".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(12))
        pen.text((40, y), " ".join(words), fill="black")
    return np.asarray(image)


def choices(run: Run, records: Sequence[Record], strange: Mapping[str, Sequence[Pixels]]) -> dict[str, Any]:
    """Each choice of maps on validation images and strange ones, all folds together."""
    known = {record.id: record for record in records}
    rows = read_csv(run.path / SPLITS)
    own: dict[str, list[Floats]] = {name: [] for name in CHOICES}
    groups: list[NDArray[np.str_]] = []
    other: dict[str, dict[str, list[Floats]]] = {name: {kind: [] for kind in strange} for name in CHOICES}
    for fold in range(FOLDS):
        task = load_task(run, fold)
        parts = {p: [known[r["image"]] for r in rows if r[f"fold_{fold}"] == p] for p in ("train", "validation")}
        groups.append(np.array([record.group for record in parts["validation"]]))
        training, validation = (described(task, map(read_record(run), parts[p])) for p in ("train", "validation"))
        strangers_seen = {kind: described(task, images) for kind, images in strange.items()}
        for name in CHOICES:
            fitted = Familiarity.fit(training[name])
            own[name].append(fitted.distance(validation[name]).double().numpy())
            for kind, seen in strangers_seen.items():
                other[name][kind].append(fitted.distance(seen[name]).double().numpy())
    return {name: judged_choice(own[name], groups, other[name]) for name in CHOICES}


def read_record(run: Run) -> Callable[[Record], Pixels]:
    """How a training reads a record."""
    reduced = run.fold(0).facts["manifest"]["input"].get("reduced", True)
    return lambda record: read_pixels(record, side=run.recipe.model.side if reduced else None)


def described(task: Any, images: Iterable[Pixels]) -> dict[str, Descriptor]:
    """What is seen of images under each choice, in one pass."""
    seen: dict[str, list[Descriptor]] = {name: [] for name in CHOICES}
    for pixels in images:
        with torch.inference_mode(), ExitStack() as stack:
            watches = {
                name: stack.enter_context(watching(task, Watched("model.backbone", taps)))
                for name, taps in CHOICES.items()
            }
            task({"image": task.prepare(np.array(pixels))["image"][None]})
            for name, watch in watches.items():
                seen[name].append(watch())
    return {name: stacked(own) for name, own in seen.items()}


def judged_choice(
    own: Sequence[Floats], groups: Sequence[NDArray[np.str_]], strange: Mapping[str, Sequence[Floats]]
) -> dict[str, Any]:
    """Distances to figures; each fold's images are suspected by the validation distances of the other folds."""
    below = []
    for fold, distances in enumerate(own):
        scale = Scale.of(np.concatenate([d for k, d in enumerate(own) if k != fold]).tolist())
        below.append(np.array(scale.familiar(distances)) if scale else np.ones_like(distances))
    whole = Scale.of(np.concatenate(own).tolist())
    every = np.concatenate(own)
    return {
        "suspected": share(np.concatenate(below), np.concatenate(groups)),
        "found": {kind: share(np.array(whole.familiar(np.concatenate(d)))) for kind, d in strange.items()},
        "auroc": {kind: auroc(-every, np.concatenate(groups), -np.concatenate(d)) for kind, d in strange.items()},
    }


def of_folds(folder: Path, run: Run, records: Sequence[Record], strange: Mapping[str, Sequence[Pixels]]) -> Any:
    """The artifacts of the folds on their own test images and on strange ones, all folds together."""
    known = {record.id: record for record in split_records(run, records)}
    rows = read_csv(run.path / SPLITS)
    own: list[Floats] = []
    tested: list[Record] = []
    other: dict[str, list[Floats]] = {kind: [] for kind in strange}
    for fold in range(run.facts["folds"]):
        artifact = read_artifact(artifact_of(folder, fold))
        test = [known[row["image"]] for row in rows if row[f"fold_{fold}"] == "test"]
        own.append(familiar_of(artifact, map(read_record(run), test)))
        tested += test
        for kind, images in strange.items():
            other[kind].append(familiar_of(artifact, images))
    familiar, group = np.concatenate(own), np.array([record.group for record in tested])
    sites = np.array([record.site or "" for record in tested])
    return {
        "protocol": run.facts["protocol"],
        "images": len(tested),
        "suspected": share(familiar, group),
        "suspected by site": {
            name: share(familiar[sites == name], group[sites == name]) for name in np.unique(sites).tolist()
        },
        "found": {kind: share(np.concatenate(values)) for kind, values in other.items()},
        "auroc": {kind: auroc(familiar, group, np.concatenate(values)) for kind, values in other.items()},
    }


def familiar_of(artifact: Artifact, images: Iterable[Pixels]) -> Floats:
    """What an artifact says of each image."""
    predictor = Predictor(artifact)
    return np.array([predictor.predict(np.array(pixels)).familiar for pixels in images], np.float64)


def share(familiar: Floats, group: NDArray[np.str_] | None = None) -> dict[str, Any]:
    """Of how many images it is below the threshold."""
    names = np.arange(len(familiar)).astype(str) if group is None else group
    below = (familiar < UNFAMILIAR).astype(np.float64)
    found = with_intervals(
        lambda weights: {"share": weights @ below / weights.sum(axis=1)},
        names,
        evidence={"share": np.unique(names).size},
        resamples=RESAMPLES,
    )
    return defined(found["share"])


def auroc(own: Floats, group: NDArray[np.str_], strange: Floats) -> dict[str, Any]:
    """How often an own image is more familiar than a strange one; equal ones count half."""
    wins = (own[:, None] > strange) + 0.5 * (own[:, None] == strange)
    names = np.concatenate([group, [f"stranger {k}" for k in range(len(strange))]])

    def measured(weights: Floats) -> dict[str, Floats]:
        mine, theirs = weights[:, : len(own)], weights[:, len(own) :]
        with np.errstate(invalid="ignore"):
            return {"auroc": ((mine @ wins) * theirs).sum(axis=1) / (mine.sum(axis=1) * theirs.sum(axis=1))}

    return defined(with_intervals(measured, names, columns=len(names), resamples=RESAMPLES)["auroc"])


def elsewhere(work: Path) -> list[Pixels]:
    """Images of the hospital that was left out, but for those with a copy at another, which the model has learned."""
    audited = open_run(work / "eyelids" / "run")
    every = split_records(audited, read_again(audited, work / "eyelids" / "data")[0])
    learned = {record.group for record in every if record.site != LEFT_OUT}
    return [read_pixels(r, side=SIDE) for r in every if r.site == LEFT_OUT and r.group not in learned]


def quantized(
    folder: Path,
    run: Run,
    records: Sequence[Record],
    contents: Mapping[str, str],
    strange: Mapping[str, Sequence[Pixels]],
) -> dict[str, Any]:
    """The compressed artifacts of fold 0 beside the float one, on its test images and on strange ones."""
    known = split_records(run, records)
    float_one = read_artifact(artifact_of(folder, 0))
    seen = set(float_one.manifest.provenance.seen_images)
    test = [record for record in known if image_mark(contents[record.id]) not in seen]
    groups = np.array([record.group for record in test])
    found: dict[str, Any] = {}
    before: Floats | None = None
    for name in ("fp32", "fp16", "int8"):
        path = artifact_of(folder, 0) if name == "fp32" else folder / name
        if not path.is_dir():
            found[name] = None
            continue
        artifact = read_artifact(path)
        familiar = familiar_of(artifact, map(read_record(run), test))
        before = familiar if before is None else before
        found[name] = {
            "suspected": share(familiar, groups),
            "found": {kind: share(familiar_of(artifact, images)) for kind, images in strange.items()},
            "mean change": float(np.mean(familiar - before)),
            "largest change": float(np.abs(familiar - before).max()),
        }
    return found


def cost(run: Run) -> dict[str, Any]:
    """What the output costs: bytes, and the time of one thread, with it over without it."""
    task = load_task(run, 0)
    familiarity, known, watched = load_familiarity(run, 0), run.calibration["familiarity"]["folds"][0], task.watched()
    assert familiarity is not None  # every run here keeps it
    assert watched is not None
    module = task.graph().eval()
    names = ["probabilities"]
    watch = Watching(module, task, watched, familiarity.scaled(Scale.from_json(known))).eval()
    graphs = {"without": export_graph(module, names), "with": export_model(watch, names)}
    found = {}
    for size in ((480, 640), (200, 300)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 4), dtype=np.uint8)
        times = latency(graphs, {name: {"pixels": pixels} for name in graphs}, rounds=100)
        found[f"{size[1]} x {size[0]}"] = {"milliseconds": times, "ratio": times["with"] / times["without"]}
    return {"bytes": len(graphs["with"]) - len(graphs["without"]), "side": SIDE, "graph": MODEL, "latency": found}


if __name__ == "__main__":
    app()
