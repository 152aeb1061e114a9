"""What is tried, what lies on the front, and what is given: rules, on measured values that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from leanmed.compress.precisions import PRECISIONS
from leanmed.errors import RecipeError, RunError
from leanmed.search.budget import Budget
from leanmed.search.candidates import Candidate, own_name, space, students_of
from leanmed.search.search import Searched, chosen, front, missed, nearest, search, told
from leanmed.search.workshop import Measured, TimeIsUp, Workshop
from leanmed.tasks.recipes import load_recipe

SMALL = Budget.parse("size=2MB,latency=10ms")


def one(name: str, score: float, size: float, latency: float, faithful: float = 1.0, **more: Any) -> Measured:
    network, _, precision = name.rpartition("-")
    costs = {"size": 1e6 * size, "latency": latency, "memory": None}
    return Measured(name, network, precision, False, score, change=score - 0.8, faithful=faithful, costs=costs, **more)


class Bench:
    """In place of a workshop: what each candidate would be found to be, and how many were asked for."""

    def __init__(self, score_of: Callable[[Candidate], float], *, known: tuple[str, ...] = (), stuck: str = "") -> None:
        self.score_of, self.stuck = score_of, stuck
        self.done = dict.fromkeys(known, True)
        self.asked: list[str] = []

    def known(self, candidate: Candidate) -> Measured | None:
        return self.found(candidate) if candidate.name in self.done else None

    def measure(self, candidate: Candidate, is_over: Callable[[], bool]) -> Measured:
        if candidate.network == self.stuck:
            raise TimeIsUp
        if candidate.name not in self.done:
            self.asked.append(candidate.name)
        self.done[candidate.name] = True
        return self.found(candidate)

    def found(self, candidate: Candidate) -> Measured:
        size = {"fp32": 8.0, "fp16": 4.0, "w8": 2.4, "int8": 2.0, "int4": 1.0}.get(candidate.precision, 3.0)
        name = candidate.name.removesuffix("-tuned")
        return one(name, self.score_of(candidate), size, 5.0)


def tried(bench: Bench, candidates: list[Candidate], after: int = 10**6) -> Searched:
    """Search until `after` candidates were asked for."""
    over = lambda: len(bench.asked) >= after  # noqa: E731
    return search(cast(Workshop, bench), candidates, SMALL, over, lambda line: None)


def test_the_space_is_every_network_in_every_precision_and_fine_tuned_where_that_is_done() -> None:
    plain = space(["big", "small"], 0)
    assert [c.name for c in plain[:6]] == ["big-fp32", *(f"big-{name}" for name in PRECISIONS), "small-fp32"]
    assert len(plain) == 2 * (1 + len(PRECISIONS))
    tuned = [c.name for c in space(["big"], 3) if c.tuned]
    assert tuned == [f"big-{name}-tuned" for name, precision in PRECISIONS.items() if precision.calibrates]


def test_every_candidate_is_measured_once_and_the_runs_own_float_model_first() -> None:
    candidates = space(["big", "small", "tiny"], 2)
    bench = Bench(lambda candidate: 0.8)
    found = tried(bench, candidates)
    assert bench.asked[0] == "big-fp32"
    assert sorted(bench.asked) == sorted(c.name for c in candidates)
    assert (found.untried, len(found.made)) == ([], len(candidates))


def test_the_first_is_measured_even_if_the_time_is_over_at_once() -> None:
    found = tried(Bench(lambda candidate: 0.8), space(["big", "small"], 0), after=0)
    assert [m.name for m in found.measured] == ["big-fp32"]
    assert len(found.untried) == 2 * (1 + len(PRECISIONS)) - 1


def test_what_an_earlier_search_measured_is_not_measured_again() -> None:
    candidates = space(["big"], 0)
    bench = Bench(lambda candidate: 0.8, known=("big-fp32", "big-int8"))
    found = tried(bench, candidates)
    assert sorted(bench.asked) == sorted(f"big-{name}" for name in PRECISIONS if name != "int8")
    assert len(found.measured) == len(candidates)


def test_a_student_that_is_not_trained_in_time_ends_the_search_and_is_named() -> None:
    found = tried(Bench(lambda candidate: 0.8, stuck="small"), space(["big", "small"], 0))
    assert found.unfinished == "small"
    assert all(m.network == "big" for m in found.measured)
    assert "small-fp32" in found.untried


def test_the_estimator_goes_on_with_what_is_better() -> None:
    candidates = space(["big", *(f"s{k}" for k in range(6))], 0)
    good = lambda candidate: 0.9 if candidate.network == "s5" else 0.5  # noqa: E731
    bench = Bench(good, known=("s5-int8", "s5-int4", *(f"s{k}-int8" for k in range(5)), "s0-int4"))
    tried(bench, candidates, after=8)
    last = [name for name in bench.asked if name.startswith("s")]
    assert {"s5-w8", "s5-fp16", "s5-fp32"} & set(last), bench.asked


def test_the_front_has_no_candidate_that_another_beats_in_all_that_counts() -> None:
    made = [
        one("a-fp32", 0.90, 8, 20),
        one("a-int8", 0.90, 2, 9),  # beats the one above in both costs
        one("a-int4", 0.85, 1, 9),
        one("b-int8", 0.80, 3, 4),  # the fastest
        one("b-int4", 0.79, 3, 5),
        one("c-int8", 0.80, 3, 4),  # as good as b-int8
    ]
    assert [m.name for m in front(made, SMALL)] == ["a-int8", "a-int4", "b-int8", "c-int8"]
    assert [m.name for m in front(made, Budget.parse("size=2MB"))] == ["a-int8", "a-int4"]


def test_of_a_network_the_most_faithful_version_inside_is_given_and_of_networks_the_best() -> None:
    made = [
        one("a-fp32", 0.80, 8, 20),
        one("a-int8", 0.80, 2, 9, faithful=0.99),
        one("a-int4", 0.83, 1, 9, faithful=0.90),  # higher by luck, as it answers otherwise
        one("b-fp32", 0.70, 2, 9),
    ]
    given = chosen(made, SMALL)
    assert given is not None
    assert given.name == "a-int8"
    better = chosen([*made, one("c-int4", 0.81, 1, 9, faithful=0.9)], SMALL)
    assert better is not None
    assert better.name == "c-int4"
    assert chosen(made, Budget.parse("size=1kB")) is None


def test_of_versions_that_answer_alike_the_smaller_is_given() -> None:
    given = chosen([one("a-fp32", 0.8, 2, 9), one("a-fp16", 0.8, 1, 9)], SMALL)
    assert given is not None
    assert given.name == "a-fp16"


def test_a_budget_that_nothing_keeps_is_answered_in_one_paragraph() -> None:
    made = [one("a-fp32", 0.80, 8, 20), one("a-int8", 0.79, 2, 9), one("a-int4", 0.70, 1, 9)]
    budget = Budget.parse("size=500kB,latency=8ms")
    assert nearest(made, budget).name == "a-int4"
    said = missed(made, budget, "auc", Searched(made, ["b-fp32"], "b"))
    assert said == (
        "None of the 3 artifacts made keeps within size 500 kB, latency 8 ms. The nearest is a-int4: size 1 MB, 2.0 "
        "times the limit and latency 9 ms, 1.1 times the limit; its auc on validation images is 0.7000, -0.1000 from "
        "a-fp32. The least that was found of each cost: size 1 MB (a-int4), latency 9 ms (a-int8). The training of b "
        "was not done when the time was over; --resume goes on. For lack of time, candidates that were not tried: 1. "
        "Raise the budget to what the nearest takes, give more --minutes, or name a smaller network with --student."
    )
    assert "--minutes" not in missed(made, budget, "auc", Searched(made, []))
    slightly = missed([one("a-fp32", 0.8, 2.0004, 1)], Budget.parse("size=2MB"), "auc", Searched(made, []))
    assert "size 2 MB, 1.000 times the limit" in slightly


def test_a_line_tells_a_candidates_place() -> None:
    line = told(one("a-int8", 0.79, 2, 9), SMALL, left=3)
    assert line == (
        "a-int8: score 0.7900 (-0.0100), size 2 MB, latency 9 ms, memory not known: inside the budget; 3 to try"
    )
    failed = Measured("a-int4", "a", "int4", False, failed="no layer")
    assert told(failed, SMALL) == "a-int4: not made: no layer"
    assert math.isnan(failed.score)


def test_a_student_is_the_runs_recipe_with_another_network_and_its_own_weights() -> None:
    recipe = load_recipe("anemia", ["model.weights=w.safetensors", "model.backbone_args={pad_type: same}"])
    (small,) = students_of(recipe, ["small:model.backbone=lcnet_050", "small:training.epochs=3"]).values()
    assert (small.model.backbone, small.model.weights, small.model.backbone_args) == ("lcnet_050", "none", {})
    assert (small.training.epochs, small.split) == (3, recipe.split)
    imagenet = students_of(load_recipe("anemia"), ["small:model.backbone=lcnet_050"])["small"]
    assert imagenet.model.weights == "imagenet"
    sized = students_of(recipe, ["half:model.side=112"])["half"]
    assert sized.model.weights == "w.safetensors", "the network is the same, and so are its weights"


def test_a_kind_has_students_of_its_own_without_the_runs_network() -> None:
    names = list(students_of(load_recipe("retina", ["model.backbone=enet"]), ()))
    assert names
    assert "enet" not in names
    assert own_name(load_recipe("retina")) == "enet"


@pytest.mark.parametrize("key", ["split.validation=0.05", "data.labels=[a, b]", "evaluation.resamples=10", "task=x"])
def test_a_student_may_not_see_other_images_than_the_run(key: str) -> None:
    with pytest.raises(RecipeError, match="expected --student to change the network or its training"):
        students_of(load_recipe("anemia"), ["small:model.backbone=lcnet_050", f"small:{key}"])


def test_a_student_that_is_asked_for_may_be_the_same_network_trained_otherwise() -> None:
    assert list(students_of(load_recipe("anemia"), ["longer:training.epochs=300"])) == ["longer"]


def test_a_run_whose_float_model_cannot_be_had_ends_the_search() -> None:
    class Broken(Bench):
        def found(self, candidate: Candidate) -> Measured:
            return Measured(candidate.name, candidate.network, candidate.precision, False, failed="images have changed")

    with pytest.raises(RunError, match="float model to be measured first, got: images have changed"):
        tried(Broken(lambda candidate: 0.8), space(["big", "small"], 0))


@pytest.mark.parametrize("text", ["small", "small:model.side", ":model.side=64", "a/b:model.side=64", "model.side=64"])
def test_a_student_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="expected --student as NAME:KEY=VALUE"):
        students_of(load_recipe("anemia"), [text])


def test_a_student_may_not_be_called_as_the_runs_own_network() -> None:
    with pytest.raises(RecipeError, match="expected a student's name unlike that of the run's network"):
        students_of(load_recipe("anemia"), ["mobilenetv2_100:model.side=96"])
