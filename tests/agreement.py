"""How far two lines of answers lie apart, and the server's line for an image."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import numpy as np

from leanmed.runtime.lines import kind_of
from leanmed.tasks import TASKS


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of probabilities, or of scores and boxes, or the mean one of a mask's confidence.

    That is what each kind of task calls `apart`, here of answers instead of graphs' outputs. It is 1 where one of them
    is none.
    """
    kind = kind_of(one)
    if kind is None or kind_of(other) != kind:
        return 1.0
    return TASKS[kind].answer.apart(_outputs(one), _outputs(other))


def _outputs(line: Mapping[str, Any]) -> list[Any]:
    answer = TASKS[str(kind_of(line))].answer.answer_of(line)
    if hasattr(answer, "probabilities"):
        return [np.array(list(answer.probabilities.values()))]
    if hasattr(answer, "all_boxes"):
        return [np.array(answer.all_boxes, np.float64).reshape(-1, 4), np.array(answer.all_scores, np.float64)]
    return [answer.mask, answer.confidence]


def post(port: int, artifact: str, content: bytes, **asked: str) -> dict[str, Any]:
    """What the server on this computer answers for the bytes of an image."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", f"/v1/predict?{urlencode({'artifact': artifact, **asked})}", content)
    line: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return line
