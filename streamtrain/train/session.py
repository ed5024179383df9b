"""One run from its directory to its artefact: plan, resume, train, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import numpy as np

from streamtrain import memory
from streamtrain.errors import CheckpointError, ConfigError, NoInputError, OutputError
from streamtrain.kernels._jit import CACHE_PROBLEM, compile_seconds
from streamtrain.kernels.team import Team
from streamtrain.kernels.updates import UpdateRule
from streamtrain.kernels.warm import compile_apart
from streamtrain.model.architecture import Architecture, plan_architecture
from streamtrain.model.models import Model, make_model
from streamtrain.model_file import (
    MODEL_NAME,
    ModelFile,
    ModelHeader,
    load_model_file,
    parameters_digest,
    save_model,
)
from streamtrain.optim.optimizers import make_rule
from streamtrain.reader.stream import check_batch_size
from streamtrain.reader.windows import batch_entries
from streamtrain.store.allocator import tame_allocators
from streamtrain.store.dataset import Dataset
from streamtrain.store.vocabulary import Vocabulary, read_vocabulary
from streamtrain.train import checkpoint as checkpoints
from streamtrain.train.checkpoint import Checkpoint
from streamtrain.train.compile import compile_kernels
from streamtrain.train.loop import Event, Loop
from streamtrain.train.plan import MemoryPlan, plan_memory, refuse_tiny
from streamtrain.train.run import (
    MetricsLog,
    check_same,
    hold_run,
    is_run,
    last_event,
    new_record,
    read_record,
    write_record,
)
from streamtrain.train.settings import Resources, ResumeMode, TrainSettings
from streamtrain.train.state import Progress, TrainState


def train(
    dataset: Dataset,
    out: Path,
    *,
    settings: TrainSettings,
    resources: Resources | None = None,
    resume: ResumeMode = "never",
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Train a model on a dataset into a run's directory, and yield events.

    Parameters
    ----------
    dataset : Dataset
    out : Path
        The run. It must not be there, but for ``resume="auto"``.
    settings : TrainSettings
        What the result depends on.
    resources : Resources or None
        What it may use; none of it shows in the result.
    resume : {"auto", "never"}
        "auto" starts a run that is not there, continues one that is, and
        reports a finished one again.
    should_stop : callable
        Looked at several times a second; True ends with a checkpoint.

    Yields
    ------
    dict
        With "event": "start", "resume", "progress", "checkpoint", "valid",
        "epoch", and last "done".

    Raises
    ------
    ConfigError, BudgetError
        If the settings cannot work or do not fit, before a row is read.
    OutputError
        If the run exists and is not to be resumed.
    MismatchError
        If it was started with another dataset or other settings.
    StoppedError
        If `should_stop` said so; the run can be resumed.
    DivergedError
        If the loss or a parameter is not finite.
    CorruptShardError
        If a block is not what was written.
    """
    resources = resources or Resources()
    settings.check()
    resources.check()
    architecture = plan_architecture(
        dataset.schema,
        model=settings.model,
        loss=settings.loss,
        loss_settings=settings.loss_settings,
        options=settings.network,
        crosses=settings.cross,
        cross_size=settings.cross_size,
    )
    settings = msgspec.structs.replace(
        settings, loss=architecture.loss, optimizer=settings.optimizer.resolved()
    )
    check_batch_size(settings.batch_size, dataset.n_rows("train"))
    _check_valid_split(settings, has_one=dataset.manifest.n_rows("valid") > 0)
    refuse_tiny(resources.memory or memory.default_budget())
    exists = is_run(out)
    if exists and resume == "never":
        raise _exists_already(out)
    if not exists and out.exists() and (not out.is_dir() or _holds_other_things(out)):
        raise OutputError(
            "exists and is not a run", where=str(out), remedy="choose another directory"
        )
    if exists:
        record = read_record(out)
        check_same(record, settings, dataset.fingerprint, run=out)
        settings = record.settings
        if (done := last_event(out, "done")) and _has_sound_model(out):
            yield done
            return
    yield from _Session(
        dataset, out, architecture, settings, resources, should_stop, exists=exists
    ).run()


def _check_valid_split(settings: TrainSettings, *, has_one: bool) -> None:
    for asked, what, option in (
        (settings.early_stop, "early stopping", "--early-stop"),
        (settings.schedule == "plateau", "the plateau schedule", "--schedule"),
    ):
        if asked and not has_one:
            raise ConfigError(
                f"{what} needs a valid split, the dataset has none",
                where=option,
                remedy="leave it out, or ingest again with --split valid=0.1",
            )


def _has_sound_model(out: Path) -> bool:
    # One that is damaged or gone is written again from the last checkpoint.
    try:
        load_model_file(out)
    except (NoInputError, CheckpointError):
        return False
    return True


def _exists_already(out: Path) -> OutputError:
    return OutputError(
        "the run exists already",
        where=str(out),
        remedy="continue it with --resume auto, or choose another directory",
    )


def _holds_other_things(folder: Path) -> bool:
    return any(not item.name.startswith(".") for item in folder.iterdir())


class _Session:
    """The parts of a run that is going on."""

    def __init__(
        self,
        dataset: Dataset,
        out: Path,
        architecture: Architecture,
        settings: TrainSettings,
        resources: Resources,
        should_stop: Callable[[], bool],
        *,
        exists: bool,
    ) -> None:
        self._dataset = dataset
        self._out = out
        self._architecture = architecture
        self._settings = settings
        self._resources = resources
        self._should_stop = should_stop
        self._exists = exists
        self._vocabularies: tuple[Vocabulary, ...] = ()
        self._apart_s = 0.0

    def run(self) -> Generator[Event, None, None]:
        tame_allocators()
        with Team(self._resources.n_threads) as team:
            started = time.perf_counter()
            family = "linear" if self._architecture.network is None else "network"
            apart_s = compile_apart("streamtrain.train.compile", family)
            compile_kernels(family)
            load_s = time.perf_counter() - started - apart_s
            self._apart_s = apart_s
            # Read now: a damaged one is found before training, and its bytes are counted.
            self._vocabularies = tuple(
                read_vocabulary(self._dataset.path, column)
                for column in self._dataset.schema.categorical
            )
            plan = plan_memory(
                self._dataset,
                self._architecture,
                self._settings,
                self._resources,
                interpreter_bytes=memory.resident_bytes(),
                vocabulary_bytes=sum(v.offsets.nbytes + v.data.nbytes for v in self._vocabularies),
            )
            self._settings = msgspec.structs.replace(
                self._settings, window_blocks=plan.window_blocks
            )
            with hold_run(self._out):
                if not self._exists:
                    if is_run(self._out):  # since we looked, another process made it
                        raise _exists_already(self._out)
                    write_record(
                        self._out,
                        new_record(self._dataset.path, self._dataset.fingerprint, self._settings),
                    )
                log = MetricsLog(self._out)
                try:
                    for event in self._events(team, plan, apart_s, load_s):
                        log.write({**event, "time": time.time()})
                        yield event
                finally:
                    log.close()

    def _events(
        self, team: Team, plan: MemoryPlan, apart_s: float, load_s: float
    ) -> Generator[Event, None, None]:
        settings, dataset = self._settings, self._dataset
        model = make_model(
            self._architecture,
            team,
            batch_size=settings.batch_size,
            seed=settings.seed,
            clips_norm=settings.optimizer.clip_norm > 0,
            n_entries=batch_entries(dataset, "train", settings.window_blocks, settings.batch_size),
        )
        parameters = model.initial_parameters(settings.seed)
        state = TrainState(
            parameters,
            _rule(model, settings),
            np.zeros(len(parameters) if settings.early_stop else 0, np.float32),
            Progress(),
            np.zeros(len(parameters) if settings.average != "none" else 0, np.float32),
        )
        n_rows = dataset.n_rows("train")
        yield {
            "event": "start",
            "task": dataset.schema.target.task,
            "loss_name": self._architecture.loss,
            "target": dataset.schema.target.name,
            "targets": dataset.schema.target.n_outputs,
            "classes": list(dataset.schema.target.classes),
            "rows": n_rows,
            "parameters": model.layout.n_values,
            "steps_per_epoch": settings.steps_per_epoch(n_rows),
            "total_steps": settings.total_steps(n_rows),
            "batch_size": settings.batch_size,
            "epochs": settings.epochs,
            "threads": team.n_threads,
            "window_rows": plan.window_rows,
            "memory": {"budget": plan.budget, **plan.parts},
            "compile_s": compile_seconds() + apart_s,
            "load_s": load_s,
            "cache_problem": CACHE_PROBLEM,
        }
        if self._exists:
            found, passed_over = self._newest_checkpoint()
            if found is not None:
                state = checkpoints.load_arrays(found, state)
            yield {
                "event": "resume",
                "step": state.progress.step,
                "epoch": state.progress.epoch,
                "row": state.progress.row,
                "taken": str(found.path) if found else None,
                "passed_over": passed_over,
            }
        loop = Loop(
            dataset,
            model,
            state,
            settings=settings,
            resources=self._resources,
            plan=plan,
            team=team,
            save=lambda: str(
                checkpoints.write_checkpoint(
                    self._out, state, settings=settings, fingerprint=dataset.fingerprint
                )
            ),
            should_stop=self._should_stop,
        )
        yield from loop.run()
        yield loop.checkpoint()
        yield self._finish(state, loop)

    def _newest_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        passed_over: list[str] = []
        for found in checkpoints.find_checkpoints(self._out):
            if isinstance(found, Checkpoint):
                if found.header.fingerprint == self._dataset.fingerprint:
                    return found, passed_over
                passed_over.append(f"{found.path}: of another dataset")
                checkpoints.discard(found.path)
            else:
                passed_over.append(str(found))
                checkpoints.discard(Path(found.where))
        return None, passed_over

    def _finish(self, state: TrainState, loop: Loop) -> Event:
        settings, dataset = self._settings, self._dataset
        best = settings.early_stop > 0 and state.progress.best_epoch >= 0
        parameters = state.best if best else loop.parameters()
        digest = parameters_digest(parameters)
        header = ModelHeader(
            format_version=1,
            architecture=self._architecture,
            schema=dataset.schema,
            fingerprint=dataset.fingerprint,
            steps=state.progress.step,
            parameters_digest=digest,
        )
        save_model(self._out, ModelFile(header, parameters, self._vocabularies))
        return {
            "event": "done",
            **loop.summary(),
            "best_epoch": state.progress.best_epoch if best else None,
            "peak_rss_bytes": memory.peak_resident_bytes(),
            "parameters_digest": digest,
            "compile_s": compile_seconds() + self._apart_s,
            "checkpoint": loop.checkpoint_path,
            "model": str(self._out / MODEL_NAME),
        }


def _rule(model: Model, settings: TrainSettings) -> UpdateRule:
    return make_rule(
        settings.optimizer,
        n_parameters=model.layout.n_parameters,
        n_dense=model.layout.n_dense,
        n_table_rows=model.layout.n_table_rows,
        rate=settings.rate,
        table_rate_factor=settings.table_rate_factor,
    )
