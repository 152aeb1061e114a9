from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leanmed.data import class_folders
from leanmed.errors import DataError, OutputError
from leanmed.phantoms import eyelids as phantoms
from leanmed.phantoms.eyelids import PHANTOMS, EyelidSet, Pixels, Row, draw_subject, eyelid, made_sites, redness

SMALL = {"count": 12, "seed": 5, "side": 64}


def draw(seed: int, hb: float = 9.0, **look: object) -> Pixels:
    return eyelid(np.random.default_rng(seed), hb, **look)  # type: ignore[arg-type]


def rows_of(made: EyelidSet) -> list[Row]:
    return [made.item(index)[0] for index in range(made.count)]


def files_below(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Of all pairs, the share in which the positive one scores higher."""
    return float((scores[positive][:, None] > scores[~positive]).mean())


# --- the planted signal


@cache
def pallor_and_truth(signal: float) -> tuple[np.ndarray, np.ndarray]:
    items = map(EyelidSet(seed=2, signal=signal, side=64).item, range(500))
    pairs = [(-redness(image), row["label"] == "anemic") for row, image in items]
    pallor, anemic = map(np.array, zip(*pairs, strict=True))
    return pallor, anemic


@pytest.mark.parametrize("signal", [0.0, 1.0, 3.0])
def test_the_auc_of_redness_is_the_one_that_was_planted(signal: float) -> None:
    planted = 0.5 * (1 + math.erf(signal / 2))  # Phi(signal / sqrt(2))
    three_standard_errors = 3 * math.sqrt(planted * (1 - planted) / 200)  # of 500, the smaller class: an upper bound
    assert auc(*pallor_and_truth(signal)) == pytest.approx(planted, abs=three_standard_errors)


def test_the_signal_is_the_distance_between_the_classes_in_standard_deviations() -> None:
    pallor, anemic = pallor_and_truth(3.0)
    spread = math.sqrt((pallor[anemic].var() + pallor[~anemic].var()) / 2)
    assert (pallor[anemic].mean() - pallor[~anemic].mean()) / spread == pytest.approx(3.0, abs=0.3)
    assert spread == pytest.approx(phantoms.REDNESS[1], rel=0.1)


def test_without_signal_the_image_does_not_depend_on_haemoglobin() -> None:
    assert np.array_equal(draw(1, hb=4.0, signal=0.0), draw(1, hb=14.0, signal=0.0))


def test_a_child_with_more_haemoglobin_has_redder_tissue_of_the_same_shape() -> None:
    images = [draw(1, hb) for hb in (4.0, 8.0, 10.9, 11.1, 14.0)]
    assert np.all(np.diff([redness(image) for image in images]) > 0)
    assert all(np.array_equal(image[..., 3], images[0][..., 3]) for image in images)


def test_redness_by_hand_is_the_log_ratio_of_the_opaque_pixels() -> None:
    image = np.array([[[59, 29, 0, 255], [0, 200, 0, 254], [19, 9, 0, 255]]], np.uint8)
    assert redness(image) == pytest.approx(math.log(2))


# --- subjects and sites


def test_three_in_five_children_are_anemic_by_the_threshold_of_11() -> None:
    rng = np.random.default_rng(0)
    hb = np.array([draw_subject(rng).hb for _ in range(2000)])
    assert (hb < 11).mean() == pytest.approx(0.6, abs=0.035)
    assert hb.min() >= 3
    assert hb.max() < 15
    assert [phantoms.label_of(level) for level in (10.9, 11.0)] == ["anemic", "non-anemic"]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_sites_differ_in_cast_and_leave_the_variance_of_redness_at_one(count: int) -> None:
    sites = made_sites(count)
    assert len({(site.blue, site.light) for site in sites}) == count
    assert np.var([site.red for site in sites]) == pytest.approx(phantoms.SITE_SHARE)
    assert all(site.own**2 + phantoms.SITE_SHARE == pytest.approx(1.0) for site in sites)


def test_a_single_site_has_no_cast_of_redness() -> None:
    (site,) = made_sites(1)
    assert (site.red, site.own) == (0.0, 1.0)


# --- the pictures


def test_a_cutout_is_a_crescent_on_black_that_fills_its_frame() -> None:
    for seed in range(20):
        image = draw(seed)
        covered = image[..., 3] > 0
        assert 79 <= image.shape[1] <= 513
        assert 0.05 < covered.mean() < 0.75
        assert not image[~covered].any()
        assert covered[0].any()
        assert covered[-1].any()
        assert covered.any(axis=0).mean() > 0.97


def test_a_photograph_is_opaque_and_four_to_three() -> None:
    for side in (64, 301, 1000):
        image = draw(3, side=side, cutout=False)
        assert image.shape == (round(0.75 * side), side, 4)
        assert image[..., 3].min() == 255


def test_a_cast_reaches_the_whole_photograph() -> None:
    plain = draw(4, side=200, cutout=False)
    blue = draw(4, side=200, cutout=False, site=phantoms.Site(blue=-0.3))
    ratio = (blue[..., 2] + 1.0) / (plain[..., 2] + 1.0)
    assert np.median(ratio[:20]) == pytest.approx(math.exp(-0.3), rel=0.03)
    assert np.median(ratio[60:90, 60:140]) == pytest.approx(math.exp(-0.3), rel=0.03)


# --- copies


def test_copies_share_the_group_of_a_photograph_and_what_is_known_of_the_child() -> None:
    rows = rows_of(EyelidSet(count=200, copies=0.4, side=64))
    groups = {str(row["group"]): row for row in rows if str(row["image"])[7:12] == str(row["group"])[11:]}
    copies = [row for row in rows if row not in groups.values()]
    assert len(copies) / 200 == pytest.approx(0.4, abs=0.11)
    assert all(row | {"image": ""} == groups[str(row["group"])] | {"image": ""} for row in copies)


def test_conflicting_copies_keep_the_photograph_and_change_the_child() -> None:
    honest, lying = (EyelidSet(count=40, copies=0.5, conflicts=c, side=64) for c in (0.0, 1.0))
    pairs = [(a, b) for a, b in zip(rows_of(honest), rows_of(lying), strict=True) if a != b]
    assert len(pairs) == 40 - len({row["group"] for row in rows_of(honest)})
    assert all((a["image"], a["group"]) == (b["image"], b["group"]) for a, b in pairs)
    assert any(a["label"] != b["label"] for a, b in pairs)
    assert all(np.array_equal(honest.item(i)[1], lying.item(i)[1]) for i in range(9))


def test_a_copy_shows_the_same_tissue_and_some_are_exact() -> None:
    made = EyelidSet(count=40, copies=1.0, side=128)
    original = made.item(0)[1]
    copies = [made.item(index)[1] for index in range(1, 40)]
    assert all(redness(copy) == pytest.approx(redness(original), abs=0.05) for copy in copies)
    assert len({copy.tobytes() for copy in copies}) > 20
    assert any(np.array_equal(copy, original) for copy in copies)


# --- the folder


def test_the_folder_is_read_by_the_generic_reader(tmp_path: Path) -> None:
    records = class_folders.read(PHANTOMS["eyelids"](tmp_path / "made", **SMALL, sites=2))
    assert len(records) == 12
    assert {r.target for r in records} == {"anemic", "non-anemic"}
    assert {r.site for r in records} == {"site-1", "site-2"}
    assert set(records[0].attributes) == {"age_months", "sex", "hb"}
    assert all((float(r.attributes["hb"]) < 11) == (r.target == "anemic") for r in records)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    for root, seed in ((first, 5), (second, 5), (other, 6)):
        PHANTOMS["eyelids"](root, count=6, seed=seed, side=64, copies=0.5)
    assert files_below(first) == files_below(second)
    assert files_below(first)["images/00000.png"] != files_below(other)["images/00000.png"]


def test_each_image_stands_in_the_folder_as_it_is_made_alone(tmp_path: Path) -> None:
    root = PHANTOMS["eyelids"](tmp_path / "made", **SMALL, copies=0.5)
    row, image = EyelidSet(count=99, seed=5, side=64, copies=0.5).item(11)
    assert np.array_equal(pixels(root / str(row["image"])), image)


def test_photographs_are_written_without_an_alpha_channel(tmp_path: Path) -> None:
    root = PHANTOMS["eyelids"](tmp_path / "made", count=1, side=64, cutout=False)
    assert pixels(root / "images/00000.png").shape == (48, 64, 3)


def test_a_folder_of_the_same_phantoms_is_left_alone_and_any_other_is_refused(tmp_path: Path) -> None:
    root = PHANTOMS["eyelids"](tmp_path / "made", **SMALL)
    before = (root / "labels.csv").stat().st_mtime_ns
    assert PHANTOMS["eyelids"](root, **SMALL) == root
    assert (root / "labels.csv").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="made"):
        PHANTOMS["eyelids"](root, **SMALL, signal=2.0)


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(phantoms, "write_json", full_disk)
    with pytest.raises(OSError, match="no space left"):
        PHANTOMS["eyelids"](tmp_path / "made", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 0), ("signal", -1.0), ("signal", math.nan), ("sites", 0), ("copies", 1.5), ("side", 8)],
)
def test_parameters_out_of_range_are_refused_by_name(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name):
        PHANTOMS["eyelids"](tmp_path / "made", **{name: value})
    assert not (tmp_path / "made").exists()
