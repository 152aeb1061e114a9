"""What the parts of leanmed need beyond the default install."""

from __future__ import annotations

from importlib.util import find_spec

from leanmed.errors import MissingExtraError

REPORTING = ("sklearn", "scipy", "matplotlib", "jinja2", "cv2", "faiss")  # of the extra `report`
TRAINING = (*REPORTING, "torch", "torchvision", "timm", "lightning", "safetensors", "onnx", "onnxscript")


def needs(command: str, extra: str, *packages: str) -> None:
    """Refuse a command whose packages are not installed.

    Raises:
        MissingExtraError: it names the extra that brings them.
    """
    if not all(map(_installed, packages)):
        raise MissingExtraError(command, extra)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:  # some import hook forbids it
        return False
