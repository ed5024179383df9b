"""The command line: a skin over the library, thin and quick to start."""

from __future__ import annotations

from streamtrain.cli.group import main

__all__ = ["main"]
