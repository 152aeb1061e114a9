"""The search: what is tried in which order, what lies on the Pareto front, and which candidate is given.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; for several goals Ozaki et al. 2022) proposes network,
precision and fine-tuning by what was found so far, with the score to raise, the costs that the budget names to lower,
and the budget as constraints. What was measured is kept in files, from which its study is made anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanmed.errors import RunError
from leanmed.search.budget import Budget, amount, cost_of
from leanmed.search.candidates import Candidate
from leanmed.search.workshop import Measured, Tell, TimeIsUp, Workshop

if TYPE_CHECKING:
    import optuna

ASKED = 32  # times the estimator may propose what was tried before, until the next in order is taken
BEFORE = 6  # candidates that are tried in order before the estimator proposes any


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Args:
        measured: every candidate that was tried, in order; the first is the run's own float model.
        untried: the names of those that were not.
        unfinished: the student whose training the end of the time stopped; empty: none.
    """

    measured: Sequence[Measured]
    untried: Sequence[str]
    unfinished: str = ""

    @property
    def made(self) -> list[Measured]:
        """Those of which there is an artifact with a score."""
        return [one for one in self.measured if not one.failed and not math.isnan(one.score)]


def search(
    workshop: Workshop, candidates: Sequence[Candidate], budget: Budget, is_over: Callable[[], bool], tell: Tell
) -> Searched:
    """Measure candidates until all are tried or the time is over; the first is measured in any case.

    Args:
        workshop: makes them.
        candidates: the run's own float model first.
        budget: what is aimed at.
        is_over: whether the time is. A candidate that is begun is finished, but for the training of a student.
        tell: takes one line for each candidate.

    Raises:
        RunError: the run's own float model cannot be had.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    goals = [optuna.study.StudyDirection.MAXIMIZE, *[optuna.study.StudyDirection.MINIMIZE] * len(budget.limits)]
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=BEFORE)
    study = optuna.create_study(directions=goals, sampler=sampler)
    left, measured, unfinished = list(candidates), [], ""
    for candidate in [one for one in candidates if workshop.known(one)]:
        measured.append(_seen(study, candidate, workshop.measure(candidate, is_over), candidates, budget))
        left.remove(candidate)
    while left and not (is_over() and measured):
        candidate = left[0] if len(measured) < BEFORE else _proposed(study, left, candidates)
        try:
            found = workshop.measure(candidate, is_over)
        except TimeIsUp:
            unfinished = candidate.network
            break
        if found.failed and candidate is candidates[0]:
            raise RunError(f"expected the run's own float model to be measured first, got: {found.failed}")
        measured.append(_seen(study, candidate, found, candidates, budget))
        left.remove(candidate)
        tell(told(found, budget, left=len(left)))
    order = {candidate.name: number for number, candidate in enumerate(candidates)}
    measured.sort(key=lambda one: order[one.name])
    return Searched(measured, [one.name for one in left], unfinished)


def _distributions(candidates: Sequence[Candidate]) -> dict[str, optuna.distributions.BaseDistribution]:
    import optuna

    return {
        key: optuna.distributions.CategoricalDistribution(list(dict.fromkeys(getattr(one, key) for one in candidates)))
        for key in ("network", "precision", "tuned")
    }


def _seen(
    study: optuna.Study, candidate: Candidate, found: Measured, candidates: Sequence[Candidate], budget: Budget
) -> Measured:
    """Tell the estimator of a candidate."""
    import optuna

    params: dict[str, Any] = {"network": candidate.network, "precision": candidate.precision, "tuned": candidate.tuned}
    common: dict[str, Any] = {"params": params, "distributions": _distributions(candidates)}
    if found.failed or math.isnan(found.score) or None in (found.costs.get(name) for name in budget.limits):
        study.add_trial(optuna.trial.create_trial(**common, state=optuna.trial.TrialState.FAIL))
        return found
    costs = {name: cost_of(found.costs, name) for name in budget.limits}
    beyond = {name: costs[name] / limit - 1 for name, limit in budget.limits.items()}
    study.add_trial(optuna.trial.create_trial(**common, values=[found.score, *costs.values()], constraints=beyond))
    return found


def _proposed(study: optuna.Study, left: Sequence[Candidate], candidates: Sequence[Candidate]) -> Candidate:
    """The estimator's next proposal that was not tried, or else the next in order."""
    import optuna

    for _ in range(ASKED):
        trial = study.ask(_distributions(candidates))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # it is told of what was measured by `_seen`
        wanted = Candidate(trial.params["network"], trial.params["precision"], trial.params["tuned"])
        if wanted in left:
            return wanted
    return left[0]


def front(made: Sequence[Measured], budget: Budget) -> list[Measured]:
    """The Pareto front: those that no other beats or equals in score and in every cost of the budget, and beats in one.

    Args:
        made: candidates with a score.
        budget: names the costs.
    """

    def values(one: Measured) -> list[float]:
        return [-one.score, *(cost_of(one.costs, name) for name in budget.limits)]

    def beaten(one: Measured) -> bool:
        own = values(one)
        return any(
            (theirs := values(other)) != own and all(b <= a for a, b in zip(own, theirs, strict=True)) for other in made
        )

    return [one for one in made if not beaten(one)]


def chosen(made: Sequence[Measured], budget: Budget) -> Measured | None:
    """The candidate to give; None: none keeps within the budget.

    Of each network it is the one inside the budget that answers most like the network's own float version, the smaller
    one of equals; of these, the one with the best score. So a version that scores a little higher by chance on a few
    validation images is not taken for it.
    """
    faithful: dict[str, Measured] = {}
    for one in made:
        best = faithful.get(one.network)
        if budget.holds(one.costs) and (best is None or _order(one) > _order(best)):
            faithful[one.network] = one
    return max(faithful.values(), key=lambda one: one.score, default=None)


def _order(one: Measured) -> tuple[float, float]:
    return one.faithful, -cost_of(one.costs, "size")


def nearest(made: Sequence[Measured], budget: Budget) -> Measured:
    """Of candidates that are all beyond the budget, the one whose worst excess is least."""
    return min(made, key=lambda one: (max(budget.over(one.costs).values(), default=1.0), -one.score))


def told(found: Measured, budget: Budget, left: int = 0) -> str:
    """One line for the screen."""
    tail = f"; {left} to try" if left else ""
    if found.failed:
        return f"{found.name}: not made: {found.failed}{tail}"
    costs = ", ".join(f"{name} {amount(name, value)}" for name, value in found.costs.items())
    over = budget.over(found.costs)
    place = "inside the budget" if not over else f"beyond the budget in {' and '.join(over)}"
    return f"{found.name}: score {found.score:.4f} ({found.change:+.4f}), {costs}: {place}{tail}"


def missed(made: Sequence[Measured], budget: Budget, score: str, searched: Searched) -> str:
    """The paragraph that answers a budget which nothing keeps."""
    near, own = nearest(made, budget), made[0]
    over = budget.over(near.costs)
    excess = " and ".join(
        f"{name} {amount(name, near.costs[name])}, {_times(times)} the limit" for name, times in over.items()
    )
    least = {name: min(made, key=lambda one: cost_of(one.costs, name)) for name in budget.limits}
    bounds = ", ".join(f"{name} {amount(name, one.costs[name])} ({one.name})" for name, one in least.items())
    more = f" {untried(searched)}" if untried(searched) else ""
    ways = ["raise the budget to what the nearest takes", *["give more --minutes"] * bool(more)]
    return (
        f"None of the {len(made)} artifacts made keeps within {budget}. The nearest is {near.name}: {excess}; "
        f"its {score} on validation images is {near.score:.4f}, {near.change:+.4f} from {own.name}. The least that was "
        f"found of each cost: {bounds}.{more} {', '.join(ways).capitalize()}, or name a smaller network with --student."
    )


def untried(searched: Searched) -> str:
    """What the end of the time left undone, in a sentence or two; empty: nothing."""
    said = []
    if searched.unfinished:
        said.append(f"The training of {searched.unfinished} was not done when the time was over; --resume goes on.")
    if searched.untried:
        said.append(f"For lack of time, candidates that were not tried: {len(searched.untried)}.")
    return " ".join(said)


def _times(factor: float) -> str:
    return f"{factor:.3f} times" if factor < 1.1 else f"{factor:,.1f} times" if factor < 100 else f"{factor:,.0f} times"
