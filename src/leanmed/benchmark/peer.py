"""The usual way to predict, to measure ours against: Pillow, torchvision, and the network in eager PyTorch.

Imports what such a script imports, and no training loop, so that its start is not made to look slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from leanmed.tasks.building import load_task
from leanmed.tasks.recipes import open_run


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads inside PyTorch, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Peer:
    """A run's model in PyTorch.

    Args:
        run: a finished run folder.
        fold: which fold; None: the model of all images.
        compiled: pass the network through torch.compile.
    """

    def __init__(self, run: Path, fold: int | None, *, compiled: bool = False) -> None:
        self.task: Any = load_task(open_run(run), fold)
        self.network: Callable[[Any], Any] = torch.compile(self.task) if compiled else self.task

    def read(self, path: Path) -> torch.Tensor:
        """A file to (4, h, w) uint8."""
        with Image.open(path) as image:
            pixels: torch.Tensor = transforms.pil_to_tensor(image.convert("RGBA"))
        return pixels

    @torch.inference_mode()
    def probabilities(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """(4, h, w) uint8 to (K,): premultiply, resize with antialiasing, network, calibrate."""
        channels = transforms.to_dtype(pixels, torch.float32, scale=True)
        tissue = torch.cat([channels[:3] * channels[3:], channels[3:]])
        side = self.task.model.side
        image = transforms.resize(tissue, [side, side], antialias=True)
        found: torch.Tensor = self.task.probabilities(self.network({"image": image[None]})["logits"])[0]
        return found.numpy()

    def predict(self, path: Path) -> NDArray[np.float32]:
        """A file to (K,)."""
        return self.probabilities(self.read(path))
