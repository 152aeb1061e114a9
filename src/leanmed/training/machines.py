"""Where a training runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry

from leanmed.errors import RunError


@dataclass(frozen=True)
class Machines:
    """Where to train, passed through to Lightning. Several machines must share the data and the run folder.

    Raises:
        RunError: as many processes are needed as there are devices, and others were started; or this machine has no
            such accelerator; or the model is to be sharded without a GPU.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        self._check_accelerator()
        if self.strategy.startswith("fsdp") and not torch.cuda.is_available():
            raise RunError(
                f"expected --strategy {self.strategy} with a GPU, since Lightning shards a model over GPUs alone, got "
                "none here; leave it out, and each process holds the whole model"
            )
        processes = int(os.environ.get("WORLD_SIZE", "1"))  # as torchrun says
        if processes != self.nodes * self.devices:
            raise RunError(
                f"expected one process for each of {self.nodes} x {self.devices} devices, got {processes}; "
                "set --nodes and --devices to what is there, and start with: "
                f"torchrun --nnodes {self.nodes} --nproc-per-node {self.devices} -m leanmed train ..."
            )

    def _check_accelerator(self) -> None:
        known = [name for name in AcceleratorRegistry if AcceleratorRegistry[name]["accelerator"].is_available()]
        known += ["gpu"] * bool({"cuda", "mps"} & set(known))
        if self.accelerator not in ("auto", *known):
            raise RunError(
                f"expected --accelerator as auto or one that this machine has ({', '.join(sorted(known))}), got "
                f"{self.accelerator!r}; leave it out, and the best one is taken"
            )

    def options(self) -> dict[str, Any]:
        """As Lightning's Trainer takes them."""
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": self.strategy,
        }
