"""A node in the process of its test, whose work is done when the test says so."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from node_fixtures import free_port, store

from leanmed.dicom_node.config import Config
from leanmed.dicom_node.inbox import Series, Store
from leanmed.dicom_node.listen import Listener
from leanmed.dicom_node.node import Node
from leanmed.runtime.predictor import Predictor

RULES = [{"artifact": "bright", "modality": "CT"}]


class Bench:
    """A node whose work is done when a test says so."""

    def __init__(self, root: Path, predictors: dict[str, Predictor], peer: dict[str, Any], **changes: Any) -> None:
        content = {"store": root / "store", "port": free_port(), "pause_seconds": 0, "rules": RULES}
        self.config = Config.model_validate(content | {"calling": ["CLIENT"], "destination": peer} | changes)
        self.store = Store(self.config.store, 64 * 10**6)
        self.lines: list[dict[str, Any]] = []
        self.listener = Listener(self.config, self.store, self.log)
        self.node = Node(self.config, self.store, predictors, self.listener.held, self.log)
        self.listener.start()

    def log(self, event: str, **about: Any) -> None:
        self.lines.append({"event": event, **about})

    def send(self, files: list[Path], **options: Any) -> list[int | None]:
        return store(self.config.port, files, **options)

    def work(self) -> None:
        """All that can be done now."""
        end = time.monotonic() + 10
        while any(map(self.listener.held.holds, [one.id for one in self.store.all()])):
            assert time.monotonic() < end, "an association that was released still counts as open"
            time.sleep(0.01)
        self.node.answer_due()
        self.node.send_due()

    @property
    def series(self) -> Series:
        (found,) = self.store.all()
        return found

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]
