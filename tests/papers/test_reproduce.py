from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from leanmed.audit.grouping import AUDIT
from leanmed.errors import DataError, OutputError
from leanmed.papers.anemia import as_text, copies_in_training, leak, table_1
from leanmed.papers.printed import PAPERS
from leanmed.papers.reproduce import parse_seeds, reproduce, settings_of
from leanmed.runs import SPLITS, Run, read_csv

Refused = Callable[..., AbstractContextManager[None]]
TINY = (
    "data.dataset=folder",
    "data.labels=[non-anemic, anemic]",
    "model.backbone=test_efficientnet",
    "model.weights=none",
    "model.side=32",
    "training.epochs=1",
    "split.folds=2",
    "split.validation=0.25",
    "evaluation.resamples=100",
)


@pytest.fixture(scope="module")
def reproduced(made_eyelids: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's protocol and ours, two seeds each, on made eyelids."""
    out = tmp_path_factory.mktemp("reproduction") / "out"
    reproduce(
        "anemia",
        made_eyelids,
        out,
        settings=TINY,
        arms=["paper", "content"],
        seeds=[0, 1],
        tell=lambda line: None,
    )
    return out


def test_the_table_says_first_that_the_paper_s_protocol_leaks(reproduced: Path) -> None:
    text = (reproduced / "anemia.md").read_text()

    assert text.startswith("This result LEAKS")
    assert "| printed: MobileNetV2 FP32 | 0.2141 | 0.9313 |" in text


def test_every_arm_and_seed_has_figures_with_intervals(reproduced: Path) -> None:
    found = json.loads((reproduced / "anemia.json").read_text())

    assert set(found["arms"]) == {"paper", "content"}
    for arm in found["arms"].values():
        assert set(arm["seeds"]) == {"0", "1"}
        for seed in arm["seeds"].values():
            assert seed["metrics"]["accuracy"].keys() == {"value", "low", "high", "n"}
    assert found["arms"]["paper"]["leak"]
    assert found["arms"]["content"]["leak"] is None  # the made copies are told to the reader


def test_what_is_finished_is_not_trained_again(reproduced: Path, made_eyelids: Path) -> None:
    before = (reproduced / "anemia.json").read_text()
    model = reproduced / "runs" / "paper-0" / "fold-0" / "model.safetensors"
    written = model.stat().st_mtime_ns

    reproduce(
        "anemia",
        made_eyelids,
        reproduced,
        settings=TINY,
        arms=["paper", "content"],
        seeds=[0, 1],
        resume=True,
        tell=lambda line: None,
    )

    assert model.stat().st_mtime_ns == written
    assert (reproduced / "anemia.json").read_text() == before


def test_an_older_reproduction_is_replaced_when_the_first_run_of_the_new_one_has_begun(
    reproduced: Path, made_eyelids: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(reproduced, tmp_path / "out"))
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    how: dict[str, Any] = {"settings": TINY, "arms": ["content"], "tell": lambda line: None}
    with pytest.raises(OutputError, match="but it holds a reproduction; add --resume to go on with it, or --overwrite"):
        reproduce("anemia", made_eyelids, out, **how)
    with pytest.raises(DataError, match="expected the data to be a folder"):
        reproduce("anemia", tmp_path / "no data", out, overwrite=True, **how)
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before
    reproduce("anemia", made_eyelids, out, overwrite=True, **how)
    assert {path.name for path in (out / "runs").iterdir()} - {AUDIT} == {"content-0"}
    assert set(json.loads((out / "anemia.json").read_text())["arms"]) == {"content"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_copies_in_training_are_counted_by_the_groups_given(finished_run: Run) -> None:
    """All images in one group: each test image has a copy, and memory answers the commonest label of training."""
    images = [row["image"] for row in read_csv(finished_run.path / SPLITS)]

    found = copies_in_training(finished_run, dict.fromkeys(images, "one"))

    assert found["share_with_a_copy_in_training"] == 1
    assert found["accuracy_without"] is None
    assert found["memory_accuracy"] == pytest.approx(share_of_commonest_label(finished_run))


def test_an_image_alone_in_its_group_has_no_copy(finished_run: Run) -> None:
    images = [row["image"] for row in read_csv(finished_run.path / SPLITS)]

    found = copies_in_training(finished_run, {name: name for name in images})

    assert found["share_with_a_copy_in_training"] == 0
    assert found["memory_accuracy"] is None
    assert found["accuracy_without"] == pytest.approx(0.9, abs=0.1)  # every tenth answer is wrong


def share_of_commonest_label(run: Run) -> float:
    """Of test images, those with the label that most of their fold's other images have."""
    rows, right = read_csv(run.path / SPLITS), []
    for fold in run.folds():
        key = f"fold_{fold.number}"
        known = [row["label"] for row in rows if row[key] in ("train", "validation")]
        right += [row["label"] == max(sorted(set(known)), key=known.count) for row in rows if row[key] == "test"]
    return sum(right) / len(right)


def test_table_1_counts_what_the_networks_are_known_for() -> None:
    """Parameters as torchvision documents them; MobileNetV2's 0.30 GMAC are 0.6 GFLOPs."""
    table = table_1()

    assert table["mobilenet_v2"]["parameters_millions"] == pytest.approx(3.505, abs=1e-3)
    assert table["mobilenet_v2"]["gigaflops"] == pytest.approx(0.60, abs=0.01)
    assert table["alexnet"]["parameters_millions"] == pytest.approx(61.101, abs=1e-3)
    assert table["resnet50"]["gigaflops"] == pytest.approx(8.18, abs=0.01)


def test_a_figure_no_fold_could_give_is_a_dash() -> None:
    arm = {"title": "ours", "leak": None, "images": 1, "groups": 1, "mean": {}, "seeds": {}}
    arm["mean"] = dict.fromkeys(("loss", "accuracy", "precision", "recall", "f1", "auc"))
    found = {"arms": {"ours": arm}, "paper": {"printed": {}, "differences": []}, "table_1": {}}

    assert "| – | – | – | – | – | – |" in as_text(found)


def test_only_the_published_protocol_is_exempt_from_groups() -> None:
    arms = PAPERS["anemia"].arms

    assert [name for name, arm in arms.items() if "split.protocol=paper" in arm.settings] == ["paper"]
    assert "LEAKS" in arms["paper"].title


def test_any_protocol_with_copies_in_training_is_labelled_as_leaking() -> None:
    assert leak(0.0) is None
    assert leak(0.734) == "This result LEAKS: 73% of its test images have a copy in training."


def test_a_setting_may_be_for_one_arm_alone_and_wins(refused: Refused) -> None:
    settings = ["training.epochs=9", "resnet50:training.epochs=4", "resnet101:training.epochs=2", "model.side=64"]
    arms = ("resnet50", "resnet101")
    assert settings_of("resnet50", settings, arms) == ["training.epochs=9", "model.side=64", "training.epochs=4"]
    assert settings_of("resnet101", settings, arms)[-1] == "training.epochs=2"
    with refused(DataError, "resnet50, resnet101", "resnet5:training.epochs=1"):
        settings_of("resnet50", ["resnet5:training.epochs=1"], arms)


@pytest.mark.parametrize("text", ["", "a", "1;2", "-1"])
def test_seeds_are_whole_numbers_with_commas(text: str, refused: Refused) -> None:
    with refused(DataError, "--seeds", "0,1,2", repr(text)):
        parse_seeds(text)
    assert parse_seeds("0, 2") == [0, 2]


def test_an_unknown_paper_or_protocol_is_named(made_eyelids: Path, tmp_path: Path, refused: Refused) -> None:
    with refused(DataError, "paper", "anemia", "'malaria'"):
        reproduce("malaria", made_eyelids, tmp_path)
    with refused(DataError, "protocol", "audited", "'best'"):
        reproduce("anemia", made_eyelids, tmp_path, arms=["best"])
