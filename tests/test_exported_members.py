from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import leanmed

HEAVY = {
    "numpy",
    "PIL",
    "onnxruntime",
    "pydicom",
    "pydantic",
    "yaml",
    "typer",
    "rich",
    "scipy",
    "sklearn",
    "matplotlib",
}
HEAVY |= {"jinja2", "onnx", "torch", "torchvision", "timm", "lightning"}


def imported_by(code: str) -> set[str]:
    program = f"{code}\nimport json, sys; print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_the_public_names_are_these():
    assert leanmed.__all__ == [
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
    assert dir(leanmed) == leanmed.__all__


@pytest.mark.parametrize("name", leanmed.__all__)
def test_every_public_name_leads_to_something_with_a_docstring(name):
    assert getattr(leanmed, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'predicts'"):
        leanmed.predicts  # noqa: B018


def test_the_package_is_typed():
    assert (Path(leanmed.__file__).parent / "py.typed").is_file()


def test_importing_leanmed_imports_nothing_heavy():
    assert not imported_by("import leanmed") & HEAVY


def test_the_public_names_need_the_default_install_only():
    found = imported_by("from leanmed import *")
    assert {"numpy", "PIL", "onnxruntime"} <= found
    assert not found & {
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "scipy",
        "sklearn",
        "matplotlib",
        "onnx",
        "typer",
    }
