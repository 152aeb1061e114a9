"""Puts ONNX Runtime Web into the package while it is built, so that `leanmed web` needs no network later."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RuntimeHook(BuildHookInterface[Any]):
    """Fetches the pinned files from npm. Without a network the build goes on without them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by the builder before it gathers files."""
        runtime = SimpleNamespace(**runpy.run_path(str(Path(self.root) / "src/leanmed/web/runtime.py")))
        try:
            runtime.read_runtime()
        except runtime.RuntimeMissing:
            try:
                runtime.fetch_runtime(runtime.PACKAGED)
            except runtime.RuntimeMissing as error:
                self.app.display_warning(f"built without ONNX Runtime Web, so leanmed web will need --runtime: {error}")
