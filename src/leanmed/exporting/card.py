"""`CARD.md`: what an artifact is for, what it was made from, how good it is, and what is not known of it.

The headings follow the items of TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378) and CLAIM 2024
(Tejani et al., doi:10.1148/ryai.240300) that a training run can answer; `leanmed.runtime.card` has the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from leanmed.figures.bootstrap import Figure, SubgroupRow
from leanmed.figures.familiarity import suspected_in_words
from leanmed.manifest import Familiar, Manifest
from leanmed.report import markdown
from leanmed.report.glossary import Term
from leanmed.runtime.card import empty_items
from leanmed.tasks import TASKS
from leanmed.tasks.kind import JudgePart

FOLDERS = re.compile(r"(?<![\w/.:])/?(?:[^\s/`]+/)+([^\s/`]+/[^\s/`]+)")  # a path of three parts or more
OWN = "this model, its own test part"
TRACED = (
    "The file `traces.bin` holds up to 32 numbers of 64 bits for each training image (for 20,000 of them if there are "
    "more), by which leanmed recognises copies of it, so that nobody judges the model on images that it has learned. "
    "They hold neither places nor grey levels, so no picture can be put together from them; but whoever has a training "
    "image can find out that it is one. The file may be left out when the artifact is passed on: predictions do not "
    "need it. (`seen_images` in leanmed.json tells the same of unchanged files.)"
)
FOLDS = "all folds of the run together, each on images new to it"


@dataclass(frozen=True)
class Basis:
    """What a card tells of the run behind an artifact.

    Args:
        images, groups: how many.
        protocol: of its split, in words.
        notes: what a reader of the figures should know.
        figures: cross-validated, of all folds together.
        terms: what they are called.
        subgroups: cross-validated too.
        made: how this model was made of the run, in a sentence.
    """

    images: int
    groups: int
    protocol: str
    notes: Sequence[str]
    figures: Mapping[str, Figure]
    terms: Mapping[str, Term]
    subgroups: Sequence[SubgroupRow]
    made: str = ""


def write_card(manifest: Manifest, basis: Basis, difference: float, *, traced: bool = False) -> str:
    """The card as Markdown.

    Args:
        manifest: of the artifact.
        basis: the run it comes from.
        difference: the largest one found between graph and model.
        traced: the artifact keeps traces of its training images.
    """
    sections = {
        "Intended use": manifest.intended_use,
        "What it does": _judge(manifest).describe(manifest),
        "Data and protocol": _data(manifest, basis),
        "How good it is": _figures(manifest, basis),
        "Subgroups": _subgroups(manifest, basis),
        **({"How it knows an image of another kind": _familiar(manifest.familiar)} if manifest.familiar else {}),
        "Limits": markdown.bullets(_limits(manifest, basis)),
        **({"What it keeps of its training images": TRACED} if traced else {}),
        "Checks": f"Graph and model differ by at most {difference:.1e} on real images at their own size, "
        "20 x 20, 64 x 1000, portrait, landscape and 12 megapixels. The SHA-256 of each graph stands in "
        "leanmed.json and is checked before use.",
        "What a training cannot know": "Whoever publishes the model fills this in, here or with "
        f"`leanmed card ARTIFACT --set KEY=TEXT`.\n\n{empty_items().rstrip()}",
    }
    leak = f"> **{manifest.leak}**\n\n" if manifest.leak else ""
    title = f"# {manifest.name} ({manifest.precision})\n\n"
    return leak + title + "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items()) + "\n"


def _judge(manifest: Manifest) -> JudgePart:
    return TASKS[manifest.task].judge


def _data(manifest: Manifest, basis: Basis) -> str:
    origin = manifest.provenance
    dataset, model = origin.recipe.get("data", {}).get("dataset"), origin.recipe.get("model", {})
    taught, weights = "", Path(model.get("weights") or "").name
    if origin.teacher:
        own = origin.teacher
        taught = (
            f"It learned from a teacher too: the run `{own['name']}` with the backbone `{own['backbone']}` "
            f"(SHA-256 of its models `{own['sha256'][:16]}`). "
        )
    return (
        f"Data set `{dataset}` (SHA-256 `{origin.data_sha256[:16]}`): {basis.images} images in {basis.groups} groups. "
        f"Protocol: {basis.protocol}. {basis.made} Backbone `{model.get('backbone')}`, weights "
        f"`{weights}`, seed {origin.seed}, leanmed {origin.leanmed}. {taught}The whole recipe stands in "
        f"leanmed.json. {without_folders(' '.join(basis.notes))}"
    )


def without_folders(text: str) -> str:
    """Sentences whose paths of several parts are cut to the last two: where a data set lay is nobody's business."""
    return FOLDERS.sub(r"\1", text)


def _figures(manifest: Manifest, basis: Basis) -> str:
    own = manifest.figures_of == "itself"
    rows = [
        (
            term.title,
            *([markdown.interval(manifest.figures[name], 3)] if own else []),
            markdown.interval(asdict(basis.figures[name]), 3),
        )
        for name, term in basis.terms.items()
        if name in manifest.figures and name in basis.figures
    ]
    table = markdown.table(("", *([OWN] if own else []), FOLDS), rows)
    text = f"{table}\n\nIn brackets: 95 % interval, bootstrap over groups."
    if own:
        return text
    return (
        f"{text} No image was kept from this model, so it cannot be tested on these. The figures are those of the "
        "models of the run's folds, each made from fewer images in the same way and tested on images new to it."
    )


def _subgroups(manifest: Manifest, basis: Basis) -> str:
    if not basis.subgroups:
        return "The data set names no attribute to form subgroups by."
    columns = _judge(manifest).CARD_COLUMNS
    rows = [
        (
            f"{row.name}: {row.value}",
            row.n,
            row.groups,
            *(markdown.interval(asdict(row.figures[c]), 3) for c in columns),
        )
        for row in basis.subgroups
    ]
    return markdown.table(("", "images", "groups", *columns.values()), rows)


def _familiar(about: Familiar) -> str:
    known = {name: math.nan if value is None else value for name, value in about.suspected.items()}
    tested = ""
    if known:
        share = suspected_in_words(
            Figure(known["value"], known["low"], known["high"], int(known["n"])), about.threshold
        )
        tested = f" On the run's test images, each looked at by a fold that had not seen it: {share}"
    return (
        "With each answer stands `familiar`, from 0 to 1. It measures how far what the network's first layers make of "
        "the image lies from what they make of the training images, and is the share of validation images that lie at "
        f"least as far. {about.images} validation images of the run's folds set it, each looked at by a fold that was "
        f"not trained on it. Below {about.threshold:g} the answer has a remark, and `leanmed predict "
        f"--refuse-unfamiliar` gives none.{tested} What this needs takes {about.bytes / 1000:.0f} kB in the graph."
    )


def _limits(manifest: Manifest, basis: Basis) -> Iterable[str]:
    if manifest.leak:
        yield "The figures above leak and say nothing about new patients."
    yield (
        "Its figures hold for images like those above: same devices, light, ages and prevalence. Elsewhere, "
        "measure again."
    )
    if manifest.familiar is None:
        yield "It answers for any picture, whatever it shows: it cannot say that an image is of another kind."
    else:
        yield (
            "It answers for any picture, whatever it shows. `familiar` raises a doubt about most images of another "
            "kind, and not about a wrong answer to an image of this one."
        )
    yield from _judge(manifest).limits(manifest)
    if basis.groups < 500:
        yield f"{basis.groups} groups are few: the intervals are wide, and subgroups are wider still."
