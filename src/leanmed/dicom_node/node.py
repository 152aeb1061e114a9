"""The node at work: what is complete is answered, what is answered is sent, what is wanted is fetched."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from leanmed.dicom_node.answering import WHOLE, answer_series
from leanmed.dicom_node.config import Config
from leanmed.dicom_node.dicomweb import NotReached, fetch
from leanmed.dicom_node.inbox import TRIES, Outcome, Series, Store
from leanmed.dicom_node.journal import reason_of, tell
from leanmed.dicom_node.listen import Open
from leanmed.dicom_node.send import send
from leanmed.errors import LeanmedError
from leanmed.runtime.predictor import Predictor

LOOK_SECONDS = 0.5  # between two looks at the store
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0  # seconds until something that failed is tried again; each wait is twice the last
TIDY_SECONDS = 600.0


class Patience:
    """Growing waits for what failed."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}

    def is_over(self, name: str) -> bool:
        """Whether something may be tried, for the first time or again."""
        return time.monotonic() >= self._failed.get(name, (0, 0.0))[1]

    def failed(self, name: str) -> float:
        """Something failed; the seconds until it is tried again."""
        count = self._failed.get(name, (0, 0.0))[0]
        wait = min(FIRST_WAIT * 2.0**count, LONGEST_WAIT)
        self._failed[name] = (count + 1, time.monotonic() + wait)
        return wait

    def succeeded(self, name: str) -> None:
        """Something did not fail."""
        self._failed.pop(name, None)


class Node:
    """What is done with the store.

    Args:
        config: see there.
        store: see there.
        predictors: by the artifacts' names.
        open: which series may still grow.
        log: takes the event and what goes with it.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        predictors: Mapping[str, Predictor],
        open: Open,
        log: Callable[..., None] = tell,
    ) -> None:
        self.config, self.store, self.predictors, self.open, self.log = config, store, predictors, open, log
        self.patience = Patience()

    def run(self, stop: threading.Event) -> list[threading.Thread]:
        """Start to work, each kind of work in a thread of its own, until told to stop."""
        work = {self.answer_due: LOOK_SECONDS, self.send_due: LOOK_SECONDS, self.tidy: TIDY_SECONDS}
        if self.config.source:
            work[self.fetch_due] = LOOK_SECONDS
        threads = [threading.Thread(target=self._repeat, args=(one, pause, stop)) for one, pause in work.items()]
        for thread in threads:
            thread.start()
        return threads

    def _repeat(self, work: Callable[[], None], pause: float, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as error:  # a thread that ended would be missed by nobody until a patient's answer is
                self.log("fault", work=work.__name__, reason=reason_of(error))
                stop.wait(FIRST_WAIT)
            stop.wait(pause)

    def answer_due(self) -> None:
        """Answer every series that is complete; those that the process may have ended with come last."""
        received = [series for series, state in self.store.waiting() if state == "received"]
        for series in sorted(received, key=lambda one: one.tries):
            if self._is_complete(series) and self.patience.is_over(f"answer {series.id}"):
                self._answer(series)

    def _is_complete(self, series: Series) -> bool:
        """Whether no association brings it any more, and a pause has passed; a clock set back ends the pause."""
        passed = time.time() - series.changed
        return not self.open.holds(series.id) and not 0 <= passed < self.config.pause_seconds

    def _answer(self, series: Series) -> None:
        name = f"answer {series.id}"
        try:
            if series.begin() > TRIES:
                made: dict[str, bytes] = {}
                reason = f"the process ended {TRIES} times while it answered this series; look at its images"
                outcome = Outcome((), {WHOLE: reason}, 0.0)
            else:
                made, outcome = answer_series(series, self.config.rules, self.predictors, self.store.limits)
            if Series.at(series.folder) != series:
                self.log("more images came", series=series.id)  # the answer was to half of them
            else:
                series.keep(made, outcome)
                about = {"images": len(series.names), "objects": len(made), "seconds": outcome.seconds}
                self.log("answered" if made else "refused", series=series.id, **about, **_told(outcome))
            series.finish()
            self.patience.succeeded(name)
        except OSError as error:  # the disk is full, or fails: the images are kept, and it is tried again
            wait = self.patience.failed(name)
            self.log("not answered", series=series.id, reason=f"the disk: {error.strerror}", again_in=wait)
            _forgiven(series)

    def send_due(self) -> None:
        """Send every answer that was not sent."""
        for series, state in self.store.waiting():
            if state == "answered" and self.patience.is_over(f"send {series.id}"):
                self._send(series)

    def _send(self, series: Series) -> None:
        outcome, name = series.outcome, f"send {series.id}"
        if outcome is None:
            return
        try:
            send(self.config, [series.answers / one for one in outcome.objects])
            series.mark_sent()
            self.patience.succeeded(name)
            self.log("sent", series=series.id, objects=len(outcome.objects))
        except (NotReached, LeanmedError, OSError) as error:
            wait = self.patience.failed(name)
            self.log("not sent", series=series.id, reason=_of_other_side(error), again_in=wait)

    def fetch_due(self) -> None:
        """Fetch every study that is wanted."""
        source = self.config.source
        for path, study in self.store.wanted() if source else ():
            if source and self.patience.is_over(path.name):
                try:
                    count = fetch(source, study, self.config.rules, self.store)
                    path.unlink()
                    self.patience.succeeded(path.name)
                    self.log("fetched", study=path.stem, objects=count)
                except (NotReached, LeanmedError, OSError) as error:
                    wait = self.patience.failed(path.name)
                    self.log("not fetched", study=path.stem, reason=_of_other_side(error), again_in=wait)

    def tidy(self) -> None:
        """Remove the series whose answers were sent long enough ago."""
        for removed in self.store.remove_ended(time.time() - 3600 * self.config.keep_hours):
            self.log("removed", series=removed)

    def status(self) -> dict[str, int]:
        """How many series are in which state."""
        return dict(Counter(series.state for series in self.store.all()))


def _told(outcome: Outcome) -> dict[str, Any]:
    return {"refusals": dict(outcome.refused)} if outcome.refused else {}


def _of_other_side(error: Exception) -> str:
    return str(error) if isinstance(error, NotReached) else reason_of(error)


def _forgiven(series: Series) -> None:
    """A disk that is full is no fault of the series; where even that cannot be written, it stays counted."""
    try:
        series.finish()
    except OSError:
        return
