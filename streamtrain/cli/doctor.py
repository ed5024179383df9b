"""The doctor command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Any

import click

from streamtrain.cli.output import echo_json, echo_lines
from streamtrain.cli.values import json_option
from streamtrain.config import format_size

_PACKAGES = ("numpy", "pyarrow", "numba", "llvmlite", "msgspec", "safetensors", "xxhash", "click")


@click.command(short_help="Report on this machine and installation.")
@json_option
def doctor(*, as_json: bool) -> None:
    """Report versions, cores, memory limits and the state of the kernel cache.

    \b
    Example:
        streamtrain doctor
    """
    report = _report()
    if as_json:
        echo_json(report)
        return
    memory, kernels = report["memory"], report["kernels"]
    cache = kernels["cache"] or f"none ({kernels['cache_problem']})"
    echo_lines(
        [
            ("streamtrain", report["versions"]["streamtrain"]),
            ("python", report["versions"]["python"]),
            *((name, report["versions"][name]) for name in _PACKAGES),
            ("system", f"{report['system']} {report['machine']}"),
            ("cores", str(report["cores"])),
            ("memory", f"{format_size(memory['allowed'])} allowed, of which "
             f"{format_size(memory['default_budget'])} is the default --memory"),
            ("kernel cache", cache),
            ("kernels", f"work on {kernels['threads']} threads; "
             f"{kernels['seconds']:.1f} s, {kernels['compile_s']:.1f} s of it compiling"),
            ("interpreter", f"{format_size(memory['resident'])} with everything loaded"),
        ]
    )  # fmt: skip
    for line in report["problems"]:
        click.echo(f"problem: {line}")


def _report() -> dict[str, Any]:
    import streamtrain
    from streamtrain import memory

    started = time.perf_counter()
    import numpy as np

    from streamtrain.kernels._jit import CACHE_DIRECTORY, CACHE_PROBLEM, compile_seconds
    from streamtrain.kernels.team import Team
    from streamtrain.model.architecture import Architecture
    from streamtrain.model.linear import LinearModel

    cores = len(os.sched_getaffinity(0))
    problems = []
    architecture = Architecture(
        model="linear", loss="squared", n_scores=1, mean=(0.0,), scale=(1.0,), cardinalities=()
    )
    with Team(min(cores, 2)) as team:
        model = LinearModel(architecture, team)
        ones = np.ones((8, 1), np.float32)
        scores = model.scores(np.full(3, 2.0, np.float32), ones, np.zeros((8, 0), np.int32))
        if not (scores == 4.0).all():
            problems.append("a kernel gave a wrong answer")
        n_threads = team.n_threads
    if CACHE_PROBLEM:
        problems.append(f"kernels are compiled anew in every process: {CACHE_PROBLEM}")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "versions": {
            "streamtrain": streamtrain.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": cores,
        "memory": {
            "allowed": memory.available_bytes(),
            "default_budget": memory.default_budget(),
            "resident": memory.resident_bytes(),
        },
        "kernels": {
            "cache": str(CACHE_DIRECTORY) if CACHE_DIRECTORY else None,
            "cache_problem": CACHE_PROBLEM,
            "threads": n_threads,
            "seconds": time.perf_counter() - started,
            "compile_s": compile_seconds(),
        },
        "problems": problems,
    }
