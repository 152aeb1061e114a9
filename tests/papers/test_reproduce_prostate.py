from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanmed.errors import DataError
from leanmed.papers.judged import mean_over_seeds
from leanmed.papers.printed import PROSTATE
from leanmed.papers.prostate import ABLATION, COST, dice_of_volumes
from leanmed.papers.reproduce import recipe_of, reproduce, with_companions
from leanmed.phantoms.prostates import write_prostates
from leanmed.reading.mr import write_mask_nifti
from leanmed.tasks.segmentation.figures import Segmented, measure_case

TINY = (
    "model.side=32",
    "teacher:model.backbone_args={width: 4}",
    "training.epochs=1",
    "split.validation=0.45",
    "evaluation.resamples=100",
    "distillation.margin=2",
)
ARMS = ["teacher", "enet", "enet-distilled"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, whose teacher and whose network alone nobody asked for, on two made sites of two patients."""
    base = tmp_path_factory.mktemp("reproduction")
    data = write_prostates(base / "sites", cases=2, sites=2, side=32, slices=4)
    reproduce("prostate", data, base / "out", settings=TINY, arms=ARMS[2:], tell=lambda line: None)
    return base / "out"


def found_in(reproduced: Path) -> dict[str, Any]:
    return dict(json.loads((reproduced / "prostate.json").read_text()))


def test_a_teacher_and_the_student_alone_come_before_the_student_and_each_once() -> None:
    arms = PROSTATE.arms
    assert with_companions(["enet-distilled", "affinity", "enet"], arms) == [*ARMS, "affinity"]
    assert with_companions(["espnet-from-deeplab"], arms) == ["teacher-deeplab", "espnet", "espnet-from-deeplab"]
    assert with_companions(list(arms), arms) == list(arms)


def test_an_arm_that_is_not_there_is_refused(refused) -> None:
    with refused(DataError, "a protocol among teacher, ", "unet"):
        with_companions(["unet"], PROSTATE.arms)


def test_what_is_said_of_distillation_holds_for_students_that_are_taught() -> None:
    settings = ["distillation.margin=2", "affinity:distillation.margin=4"]
    margins = {arm: recipe_of(PROSTATE, arm, 0, settings).distillation.margin for arm in (*ARMS, "affinity")}
    assert margins == {"teacher": 3.0, "enet": 3.0, "enet-distilled": 2.0, "affinity": 4.0}


def test_each_arm_of_the_ablation_leaves_the_other_terms_out() -> None:
    def weights(arm: str) -> list[float | None]:
        distillation = recipe_of(PROSTATE, arm, 0, ()).distillation
        return [distillation.affinity, distillation.kernel, distillation.logits, distillation.emkd]

    assert weights("enet-distilled") == [None, None, None, 0]  # the paper's
    assert weights("affinity") == [None, 0, 0, 0]
    assert weights("kernel-logits") == [0, None, None, 0]
    assert weights("emkd") == [0, 0, 0, 1]


def test_the_arm_of_all_terms_is_printed_alike_in_both_of_the_paper_s_tables() -> None:
    assert ABLATION["enet-distilled"] == PROSTATE.printed["ENet from T1"]["S1"]
    assert set(ABLATION) <= set(PROSTATE.arms)


def test_a_student_learns_from_the_teacher_of_its_own_seed(reproduced: Path) -> None:
    facts = {arm: json.loads((reproduced / "runs" / f"{arm}-0" / "run.json").read_text()) for arm in ARMS}
    assert facts["enet-distilled"]["teacher"]["run"] == str((reproduced / "runs" / "teacher-0").resolve())
    assert "teacher" not in facts["teacher"] | facts["enet"]


def test_every_site_has_figures_of_teacher_student_alone_and_student(reproduced: Path) -> None:
    found = found_in(reproduced)
    assert list(found["arms"]) == ARMS
    for arm in ARMS:
        sites = found["sites"][arm]
        assert list(sites) == ["site-1", "site-2", "all sites"]
        assert [sites[site]["dice"]["n"] for site in sites] == [2, 2, 4]
        both = [sites[site]["dice"]["value"] for site in ("site-1", "site-2")]
        assert sites["all sites"]["dice"]["value"] == pytest.approx(np.mean(both))
        pooled = found["arms"][arm]["seeds"]["0"]["metrics"]["dice"]["value"]
        assert sites["all sites"]["dice"]["value"] == pytest.approx(pooled)


def test_a_student_is_compared_with_its_teacher_and_itself_alone_on_the_same_patients(reproduced: Path) -> None:
    found = found_in(reproduced)
    (change,) = found["differences"].values()
    assert (change["teacher"], change["alone"]) == ("teacher", "enet")
    for site, own in found["sites"]["enet-distilled"].items():
        for name, other in (("minus_teacher", "teacher"), ("minus_alone", "enet")):
            expected = own["dice"]["value"] - found["sites"][other][site]["dice"]["value"]
            figure = change[name][site]["dice"]
            assert figure["value"] == pytest.approx(expected)
            assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_tables_show_ours_and_the_paper_s(reproduced: Path) -> None:
    text = (reproduced / "prostate.md").read_text()
    assert "Not a medical device" in text
    lines = text.splitlines()
    start = lines.index("| Dice | site-1 | site-2 | all sites | minus alone | minus its teacher |")
    names = [line.split(" | ")[0] for line in lines[start + 2 : start + 5]]
    assert names == ["| UNet++, the teacher", "| ENet alone", "| ENet from UNet++"]
    assert "| ENet from T1 | 0.810 | 0.642 | 0.734 | 0.881 | 0.796 | 0.876 | 0.790 |" in text
    assert "| ENet from UNet++ by affinity | 0.700 |  |  |" in text
    assert "with labels of the site that it tests" in text


def table(*answers: tuple[int, int]) -> Segmented:
    """Cases of a line of four pixels, of which the truth marks the first two, and the answer those from a to b."""
    truth, rows = np.array([[1, 1, 0, 0]], np.uint8), []
    for start, stop in answers:
        answered = np.zeros((1, 4), np.uint8)
        answered[0, start:stop] = 1
        rows.append(measure_case(truth, answered, 1, confidence=answered * np.uint8(255)))
    count = len(rows)
    return Segmented.of(rows, first=np.arange(count), group=np.array([*map(str, range(count))]), labels=("gland",))


def test_of_several_seeds_each_case_has_its_mean() -> None:
    """Dice is 1 and 2/3 of the first case, 0 and 0 of the second; the second has no distance in the first seed."""
    found = mean_over_seeds([table((0, 2), (0, 0)), table((0, 1), (2, 4))])
    np.testing.assert_allclose(found.dice[:, 0], [5 / 6, 0])
    assert found.tp.tolist() == [[1.5], [0]]
    assert found.truth.tolist() == [[2], [2]]  # as of one seed, so that both can be compared
    assert np.isfinite(found.asd[:, 0]).tolist() == [True, False]
    assert found.histograms is not None
    assert found.histograms[:, :, 0].sum() == 8  # pixels of two cases


def test_the_paper_s_parameters_are_those_of_our_networks(reproduced: Path) -> None:
    rows = found_in(reproduced)["cost"]
    for name, (_, millions, gigaflops) in COST.items():
        allowed = 0.04 if name == "deeplabv3plus" else 0.001  # it was counted with the classifier of ImageNet
        assert rows[name]["million_parameters"] == pytest.approx(millions, rel=allowed)
        assert rows[name]["gigaflops"] == pytest.approx(gigaflops, rel=0.11)  # normalisations are not counted


def test_whole_volumes_are_judged_by_the_files_of_their_answers(tmp_path: Path) -> None:
    """Of two volumes, the true mask and an empty one were answered."""
    volumes = write_prostates(tmp_path / "volumes", cases=2, sites=1, side=32, slices=4)
    images = [volumes / "site-1" / f"Case0{k}.nii.gz" for k in range(2)]
    shutil.copy(volumes / "site-1" / "Case00_segmentation.nii.gz", tmp_path / "0.nii.gz")
    write_mask_nifti(tmp_path / "1.nii.gz", np.zeros((4, 32, 32), np.uint8), images[1])
    lines = [json.dumps({"input": str(image), "file": f"{k}.nii.gz"}) for k, image in enumerate(images)]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))

    told = dice_of_volumes(tmp_path / "answers.jsonl", volumes)

    assert told == "Dice 0.500 in 2 whole volumes of a site that no model saw (1.000, 0.000)"
