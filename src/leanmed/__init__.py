"""leanmed: from a folder of labelled medical images to one small, tested model file.

```python
import leanmed

predictor = leanmed.load("artifact")
print(predictor.predict("eyelid.jpg").probability)
```

The steps of the command line are functions as well: `audit_folder`, `train`, `evaluate`, `export` and `predict`, which
docs/first-day.ipynb takes in turn.

Importing this package never imports torch, and names are loaded when they are first used. It sets three variables of
the environment that torch reads later, unless they are set already (see `leanmed.cores.set_thread_defaults`). What can
go wrong stands in `leanmed.errors`. Research use only: not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leanmed import errors
from leanmed.cores import set_thread_defaults

__version__ = "0.1.0"

set_thread_defaults()  # here, because this runs before any module of leanmed that imports torch

if TYPE_CHECKING:
    from leanmed.api import audit_folder as audit_folder
    from leanmed.api import evaluate as evaluate
    from leanmed.api import export as export
    from leanmed.api import train as train
    from leanmed.prompts import Prompts as Prompts
    from leanmed.reading.images import Limits as Limits
    from leanmed.reading.images import read_image as read_image
    from leanmed.records import Boxes as Boxes
    from leanmed.records import Mask as Mask
    from leanmed.records import Record as Record
    from leanmed.runtime.answers import Answers as Answers
    from leanmed.runtime.answers import predict as predict
    from leanmed.runtime.predictor import Predictor as Predictor
    from leanmed.runtime.predictor import load as load
    from leanmed.tasks.answers import Candidate as Candidate
    from leanmed.tasks.answers import Candidates as Candidates
    from leanmed.tasks.answers import Detections as Detections
    from leanmed.tasks.answers import MaskedImage as MaskedImage
    from leanmed.tasks.answers import MaskedScan as MaskedScan
    from leanmed.tasks.answers import Prediction as Prediction

_HOMES = {
    "Answers": "leanmed.runtime.answers",
    "Boxes": "leanmed.records",
    "Candidate": "leanmed.tasks.answers",
    "Candidates": "leanmed.tasks.answers",
    "Detections": "leanmed.tasks.answers",
    "Limits": "leanmed.reading.images",
    "Mask": "leanmed.records",
    "MaskedScan": "leanmed.tasks.answers",
    "Prediction": "leanmed.tasks.answers",
    "Predictor": "leanmed.runtime.predictor",
    "Prompts": "leanmed.prompts",
    "Record": "leanmed.records",
    "MaskedImage": "leanmed.tasks.answers",
    "audit_folder": "leanmed.api",
    "evaluate": "leanmed.api",
    "export": "leanmed.api",
    "load": "leanmed.runtime.predictor",
    "predict": "leanmed.runtime.answers",
    "read_image": "leanmed.reading.images",
    "train": "leanmed.api",
}

__all__ = [
    "Answers",
    "Boxes",
    "Candidate",
    "Candidates",
    "Detections",
    "Limits",
    "Mask",
    "MaskedImage",
    "MaskedScan",
    "Prediction",
    "Predictor",
    "Prompts",
    "Record",
    "__version__",
    "audit_folder",
    "errors",
    "evaluate",
    "export",
    "load",
    "predict",
    "read_image",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'leanmed' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
