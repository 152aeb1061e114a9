from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from leanmed.data.splits import LEAK, Fold, check_groups, make_folds, site_notes
from leanmed.errors import DataError, LeakError
from leanmed.recipe.recipe import Split
from leanmed.records import Boxes, Mask, Record

WHOLE = ("grouped", "holdout", "site", "adapt")


def record(number: int, target: str, group: str, site: str | None = "A") -> Record:
    return Record(str(number), Path(f"{number}.png"), target, group, site)


def clinic(groups: int = 60, size: int = 2, sites: int = 3) -> list[Record]:
    """Groups of `size` images; every third group is ill, and three groups at a time go round the sites."""
    return [
        record(g * size + k, "ill" if g % 3 == 0 else "healthy", f"p{g}", f"site {g // 3 % sites}")
        for g in range(groups)
        for k in range(size)
    ]


def groups_of(records: Sequence[Record], positions: Any) -> set[str]:
    return {records[i].group for i in positions}


@st.composite
def clinics(draw: st.DrawFn) -> list[Record]:
    """Groups of uneven size, some with both labels, some seen at two sites, in any order."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=40, max_size=70))
    flips = draw(st.sets(st.integers(0, 300), max_size=10))
    moves = draw(st.sets(st.integers(0, 300), max_size=10))
    pairs = [(g, k) for g, size in enumerate(sizes) for k in range(size)]
    records = [
        record(n, "ab"[(g % 2) ^ (n in flips)], f"p{g}", "XYZ"[(g // 2 + (n in moves)) % 3])
        for n, (g, _) in enumerate(pairs)
    ]
    return draw(st.permutations(records))


@settings(max_examples=30)
@given(clinics(), st.sampled_from(WHOLE), st.integers(0, 1000), st.sampled_from([0.15, 0.3, 0.45]))
def test_no_group_is_on_both_sides_under_any_protocol_but_paper(records, protocol, seed, validation):
    for fold in make_folds(records, Split(protocol=protocol, folds=4, seed=seed, validation=validation)):
        train, validate, test = (groups_of(records, part) for part in fold.parts().values())
        assert not train & validate
        assert not (train | validate) & test
        assert {records[i].target for i in fold.train} == {"a", "b"}


@settings(max_examples=30)
@given(clinics(), st.sampled_from(("grouped", "site", "paper")), st.integers(0, 1000))
def test_every_image_is_tested_once(records, protocol, seed):
    folds = make_folds(records, Split(protocol=protocol, folds=3, seed=seed))
    tested = Counter(int(i) for fold in folds for i in fold.test)
    assert tested == Counter(range(len(records)))


def masked(case: int, site: str, slices: int = 3) -> list[Record]:
    """The slices of a volume."""
    image, target = Path(f"{site}{case}.nii.gz"), Mask((Path(f"{site}{case}_seg.nii.gz"),))
    return [Record(f"{site}{case}#{z}", image, target, f"{site}{case}", site, frame=z) for z in range(slices)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_under_adapt_so_many_groups_of_a_site_are_learned_from_and_its_others_are_tested(count):
    records = clinic(groups=60)  # 20 groups at each of three sites
    for number, fold in enumerate(make_folds(records, Split(protocol="adapt", adapt=count))):
        at_home = {records[i].group for i in range(len(records)) if records[i].site == f"site {number}"}
        assert len(at_home & groups_of(records, fold.train)) == count
        assert not at_home & groups_of(records, fold.validation)
        assert groups_of(records, fold.test) == at_home - groups_of(records, fold.train)
        assert sorted(np.concatenate(list(fold.parts().values()))) == list(range(len(records)))


def test_under_adapt_one_patient_of_each_site_is_chosen_by_the_seed():
    records = [r for site in "ABC" for case in range(6) for r in masked(case, site)]

    def adapted_by(seed: int) -> list[set[str]]:
        folds = make_folds(records, Split(protocol="adapt", seed=seed))
        return [{g for g in groups_of(records, f.train) if g[0] == site} for site, f in zip("ABC", folds, strict=True)]

    assert all(len(groups) == 1 for groups in adapted_by(0))
    assert len({str(adapted_by(seed)) for seed in range(5)}) > 1


def test_a_site_whose_groups_would_all_be_learned_from_is_refused(refused):
    records = [r for site, cases in (("A", 4), ("B", 2)) for case in range(cases) for r in masked(case, site)]
    with refused(DataError, "at least 3 groups at site B for split.adapt = 2, got 2; set split.adapt = 1"):
        make_folds(records, Split(protocol="adapt", adapt=2, validation=0.45))
    assert len(make_folds(records, Split(protocol="adapt", adapt=1, validation=0.45))) == 2
    with refused(DataError, "got 1; use `site`"):
        make_folds([*records, *masked(0, "C")], Split(protocol="adapt", validation=0.45))
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Split(adapt=0)


def test_a_site_of_one_case_is_tested_and_learned_from():
    records = [r for site, cases in (("A", 4), ("B", 4), ("C", 1)) for case in range(cases) for r in masked(case, site)]
    folds = make_folds(records, Split(protocol="site", validation=0.2))
    assert [len(groups_of(records, fold.test)) for fold in folds] == [4, 4, 1]
    assert all(part.size for fold in folds for part in fold.parts().values())


def test_too_few_cases_with_masks_are_refused_with_the_setting_to_change(refused):
    records = [r for site in "ABC" for case in range(2) for r in masked(case, site)]
    with refused(DataError, "at least 7 groups for split.validation = 0.15, got 4; set split.validation = 0.23, or"):
        make_folds(records, Split(protocol="site"))
    for fold in make_folds(records, Split(protocol="site", validation=0.23)):
        assert all(part.size for part in fold.parts().values())


@pytest.mark.parametrize("protocol", ["grouped", "holdout", "paper"])
def test_no_image_has_two_parts_and_none_is_left_over(protocol):
    records = clinic()
    for fold in make_folds(records, Split(protocol=protocol)):
        assert sorted(i for part in fold.parts().values() for i in part) == list(range(len(records)))


@pytest.mark.parametrize("protocol", ["grouped", "holdout", "paper"])
def test_labels_are_as_common_in_every_part_as_in_the_whole(protocol):
    records = clinic(groups=150)
    for fold in make_folds(records, Split(protocol=protocol)):
        for part in fold.parts().values():
            assert np.mean([records[i].target == "ill" for i in part]) == pytest.approx(1 / 3, abs=0.05)


@pytest.mark.parametrize("protocol", [*WHOLE, "paper"])
def test_the_same_seed_gives_the_same_folds_and_another_seed_others(protocol):
    def folds(seed: int) -> list[list[int]]:
        made = make_folds(clinic(), Split(protocol=protocol, seed=seed))
        return [part.tolist() for fold in made for part in fold.parts().values()]

    assert folds(3) == folds(3) != folds(4)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
def test_a_hold_out_has_about_the_share_that_was_asked_for(share):
    records = clinic(groups=300)
    (fold,) = make_folds(records, Split(protocol="holdout", test=share))
    assert len(fold.test) / len(records) == pytest.approx(share, abs=0.04)


def test_the_paper_protocol_tears_groups_apart_and_says_so():
    records = clinic()
    folds = make_folds(records, Split(protocol="paper"))
    assert len(folds) == 5
    assert all(groups_of(records, f.train) & groups_of(records, f.test) for f in folds)
    assert LEAK.startswith("This result LEAKS")


def test_under_site_each_site_is_tested_by_a_model_that_saw_nothing_of_it():
    records = clinic()
    folds = make_folds(records, Split(protocol="site"))
    assert len(folds) == 3
    for number, fold in enumerate(folds):
        assert {records[i].site for i in fold.test} == {f"site {number}"}
        assert f"site {number}" not in {records[i].site for part in (fold.train, fold.validation) for i in part}


def test_a_group_seen_at_two_sites_trains_no_model_that_is_tested_at_either():
    records = [*clinic(), record(999, "ill", "p0", "site 1")]  # p0 is at home at site 0
    at_0, at_1, at_2 = make_folds(records, Split(protocol="site"))
    assert 120 in at_0.test
    assert "p0" not in groups_of(records, [*at_1.train, *at_1.validation, *at_1.test])
    assert "p0" in groups_of(records, [*at_2.train, *at_2.validation])
    (note,) = site_notes(records, Split(protocol="site"))
    assert note.startswith("1 group(s) have images at several sites, for example p0: each is tested as a whole")
    assert site_notes(clinic(), Split(protocol="site")) == site_notes(records, Split(protocol="grouped")) == []


def test_sites_are_needed_under_site(refused):
    with refused(DataError, "expected a site for each image under `site`", "fill in `site`"):
        make_folds([*clinic(), record(999, "ill", "p99", None)], Split(protocol="site"))
    with refused(DataError, "expected two or more sites under `site`, got site 0 only; train with --protocol grouped"):
        make_folds(clinic(sites=1), Split(protocol="site"))


@pytest.mark.parametrize(
    ("groups", "changes", "expected"),
    [
        (
            12,
            {},
            "at least 5 groups of label ill for split.folds = 5, got 4; set split.folds = 4 and split.validation = 0.3",
        ),
        (
            21,
            {},
            "at least 7 groups of label ill for split.validation = 0.15, got 5; set split.validation = 0.19",
        ),
        (
            30,
            {"protocol": "holdout", "test": 0.05},
            "at least 20 groups of label ill for split.test = 0.05, got 10",
        ),
        (9, {"protocol": "paper", "folds": 8}, "at least 8 groups of label ill for split.folds = 8, got 6"),
    ],
)
def test_too_few_groups_are_refused(groups, changes, expected, refused):
    with refused(DataError, expected):
        make_folds(clinic(groups), Split(**changes))


def test_a_site_with_all_of_a_label_is_refused(refused):
    records = [record(i, "ill" if i < 20 else "healthy", f"p{i}", "A" if i < 20 else "B") for i in range(40)]
    with refused(DataError, "groups of label ill for split.validation = 0.15, got 0"):
        make_folds(records, Split(protocol="site"))


def test_uneven_groups_are_drawn_again_until_every_part_has_every_label():
    rng = np.random.default_rng(1)  # eight groups of both labels, very uneven
    rows = [(label, g) for g in range(8) for label in ("healthy", "ill") for _ in range(rng.choice([0, 1, 20]))]
    records = [record(number, label, f"p{g}") for number, (label, g) in enumerate(rows)]
    for fold in make_folds(records, Split(folds=2, validation=0.45)):
        for part in fold.parts().values():
            assert {records[i].target for i in part} == {"healthy", "ill"}


def test_groups_that_no_draw_divides_are_refused(refused):
    # p0 alone holds ill images beside p1 and p2 of one image each; "healthy" comes with p0 too, and with nobody else.
    rows = [("ill", 0)] * 9 + [("healthy", 0)] * 9 + [("ill", 1), ("ill", 2), ("healthy", 1)]
    records = [record(number, label, f"p{g}") for number, (label, g) in enumerate(rows)]
    with refused(DataError, "at least 3 groups of label healthy", "got 2", "add data"):
        make_folds(records, Split(folds=3))


@pytest.mark.parametrize("rare", [3, 4, 5, 7])
@pytest.mark.parametrize("changes", [{"folds": 2}, {"folds": 5}, {"protocol": "holdout"}])
def test_the_settings_that_a_refusal_advises_are_accepted(rare, changes):
    records = [record(i, "ill" if i < rare else "healthy", f"p{i}") for i in range(40)]
    for _ in range(2):  # one piece of advice, if any, must do
        try:
            assert make_folds(records, Split(**changes))
            return
        except DataError as error:
            changes = changes | {
                k: float(v) for k, v in re.findall(r"split\.(\w+) = ([\d.]+)(?= and|, or)", str(error))
            }
            changes |= {"folds": int(changes["folds"])} if "folds" in changes else {}
    pytest.fail(f"{changes} are refused too")


def test_two_groups_of_a_label_are_too_few_whatever_the_settings(refused):
    records = [record(i, "ill" if i < 2 else "healthy", f"p{i}") for i in range(40)]
    with refused(DataError, "got 2; no setting makes do with so few", "add data"):
        make_folds(records, Split(folds=3))
    with refused(DataError, "got 1; no setting makes do with so few"):
        make_folds(records[1:], Split(folds=2))


def boxed(number: int, boxes: int, group: str) -> Record:
    return Record(str(number), Path(f"{number}.png"), Boxes(((0, 0, 5, 5),) * boxes), group)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("with_boxes", "without"), [(8, 32), (8, 3), (9, 0), (25, 25)])
def test_every_part_of_a_small_set_for_detection_has_objects(with_boxes, without, seed):
    records = [boxed(i, int(i < with_boxes), f"p{i}") for i in range(with_boxes + without)]
    for fold in make_folds(records, Split(folds=3, validation=0.2, seed=seed)):
        for part in fold.parts().values():
            assert any(records[i].boxes.xyxy for i in part)


def test_a_large_group_without_objects_is_no_part_by_itself():
    records = [boxed(i, 0, "p0") for i in range(30)] + [boxed(30 + i, 1, f"p{1 + i}") for i in range(6)]
    for fold in make_folds(records, Split(folds=2, validation=0.45)):
        for part in fold.parts().values():
            assert any(records[i].boxes.xyxy for i in part)


def test_too_few_groups_with_objects_are_refused_with_the_setting_to_change(refused):
    records = [boxed(i, int(i < 4), f"p{i}") for i in range(40)]
    words = "at least 5 groups with objects for split.folds = 5, got 4; set split.folds = 4 and split.validation = 0.3"
    with refused(DataError, words):
        make_folds(records, Split())
    assert make_folds(records, Split(folds=4, validation=0.3))


def test_folds_made_elsewhere_are_refused_when_they_tear_a_group(refused):
    records = clinic(groups=4)
    fold = Fold(2, np.array([0, 2, 3]), np.array([4, 5]), np.array([1, 6, 7]))
    with refused(LeakError, "fold 2: expected whole groups, got 1 that stand in test", "p0", "to one part"):
        check_groups(records, [fold])
