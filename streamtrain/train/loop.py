"""The training loop: it yields events and prints nothing.

    for each epoch:  segments of batches -> steps -> (checkpoint) -> validation -> checkpoint

A call of the kernel takes many steps, up to the next thing that must happen
between steps. How many depends on the clock; the result does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from streamtrain import memory
from streamtrain.errors import DivergedError, StoppedError, StreamtrainError
from streamtrain.kernels.team import Team
from streamtrain.model.losses import class_values
from streamtrain.model.models import Model
from streamtrain.reader.order import Cursor, OrderSettings
from streamtrain.reader.stream import EpochReader, Segment
from streamtrain.scoring import evaluate_split
from streamtrain.store.dataset import Dataset
from streamtrain.train.average import Average
from streamtrain.train.plan import MemoryPlan
from streamtrain.train.progressive import Progressive
from streamtrain.train.settings import Resources, TrainSettings
from streamtrain.train.state import TrainState

Event = dict[str, Any]
_CALL_S = 0.05
_PROGRESS_S = 1.0
_MAX_CALL_STEPS = 4096


class Loop:
    """Train a model on the train split of a dataset.

    Parameters
    ----------
    dataset : Dataset
    model : Model
    state : TrainState
        Updated in place.
    settings : TrainSettings
        With window_blocks as chosen.
    resources : Resources
    plan : MemoryPlan
    team : Team
    save : callable
        Commits a checkpoint of `state` and returns its path.
    should_stop : callable
        Looked at between calls of the kernel.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Model,
        state: TrainState,
        *,
        settings: TrainSettings,
        resources: Resources,
        plan: MemoryPlan,
        team: Team,
        save: Callable[[], str],
        should_stop: Callable[[], bool],
    ) -> None:
        self._dataset = dataset
        self._model = model
        self._state = state
        self._settings = settings
        self._resources = resources
        self._plan = plan
        self._save = save
        self._should_stop = should_stop
        n_rows = dataset.n_rows("train")
        self._total_steps = settings.total_steps(n_rows)
        self._schedule = settings.plan_schedule(self._total_steps)
        self._average = Average(
            settings.plan_averaging(
                n_parameters=len(state.parameters), total_steps=self._total_steps
            ),
            model,
            state,
            team,
        )
        self._has_valid = dataset.manifest.n_rows("valid") > 0
        self._call_steps = 1
        self._saved_step = state.progress.step
        self._saved_at = self._shown_at = self._since = time.monotonic()
        self._rows_shown = 0
        self._started = time.monotonic()
        self._earlier_s = state.progress.seconds
        self._rows_here = 0
        self._recent = np.zeros(2)
        self._last_loss: float | None = None
        self._progressive = Progressive(
            model.architecture,
            n_classes=len(dataset.schema.target.classes),
            auc_rows=plan.auc_rows,
            on=resources.progressive and state.progress.epoch == 0,
        )
        self.compute_s = 0.0
        self.first_batch_s: float | None = None
        self.checkpoint_path = ""
        self._reader = EpochReader(
            dataset,
            "train",
            OrderSettings(
                dataset.fingerprint, settings.seed, settings.window_blocks, settings.shuffle
            ),
            batch_size=settings.batch_size,
            depth=resources.prefetch,
            n_readers=plan.n_readers,
            drop_last=settings.drop_last,
            io=resources.io,
            class_values=class_values(dataset.schema, model.architecture.loss),
        )

    @property
    def reader(self) -> EpochReader:
        """The reader of the train split, for its times."""
        return self._reader

    def run(self) -> Generator[Event, None, None]:
        """Train to the end and yield events.

        Raises
        ------
        StoppedError
            After a checkpoint, if `should_stop` said so.
        DivergedError
            If a loss is not finite.
        CorruptShardError
            If a block is not what was written.
        """
        progress = self._state.progress
        with self._reader:
            # A run that was stopped after its last step still owes that epoch's end.
            while progress.epoch < self._settings.epochs and (progress.row or not self._is_over()):
                yield from self._train_epoch()
                ended = progress.row >= self._reader.rows_in_epoch()
                yield from self._end_epoch(ended=ended)
                if not ended:
                    break
        self._check_ledger()

    def _is_over(self) -> bool:
        progress, settings = self._state.progress, self._settings
        if settings.early_stop and progress.stale_epochs >= settings.early_stop:
            return True
        return progress.step >= self._total_steps

    def _train_epoch(self) -> Iterator[Event]:
        progress = self._state.progress
        with closing(self._reader.epoch(Cursor(progress.epoch, progress.row))) as segments:
            for segment in segments:
                done = 0
                while done < segment.n_batches and progress.step < self._total_steps:
                    if self._should_stop():
                        raise self._stopped()
                    done += self._take_steps(segment, done)
                    if self._checkpoint_due():
                        yield self.checkpoint()
                    if time.monotonic() - self._shown_at >= _PROGRESS_S:
                        yield self._progress_event()
                if progress.step >= self._total_steps:
                    return

    def _take_steps(self, segment: Segment, done: int) -> int:
        progress = self._state.progress
        n = min(
            segment.n_batches - done,
            self._call_steps,
            self._total_steps - progress.step,
            self._average.steps_left(),
            _MAX_CALL_STEPS,
            self._progressive.max_steps(segment.batch_size),
        )
        every = self._resources.checkpoint_steps
        if every:
            n = min(n, every - progress.step % every)
        size = segment.batch_size
        rows = segment.rows.slice(done * size, min((done + n) * size, segment.rows.n_rows))
        sums = np.zeros((n, 2))
        started = time.perf_counter()
        taken = self._model.take_steps(
            self._state.parameters,
            self._state.rule,
            numeric=rows.numeric,
            codes=rows.codes,
            bags=rows.bags,
            target=rows.target,
            weight=rows.weight,
            exposure=rows.exposure,
            batch_size=size,
            step=progress.step,
            rates=self._rates(n),
            step_sums=sums,
            progressive=self._progressive.scores(rows),
        )
        seconds = time.perf_counter() - started
        self.compute_s += seconds
        if self.first_batch_s is None:
            self.first_batch_s = time.monotonic() - self._started
        # The next call should take about _CALL_S: long enough that Python is free,
        # short enough that a signal is answered at once.
        self._call_steps = max(1, min(2 * n, int(n * _CALL_S / max(seconds, 1e-6))))
        # Rows are added one by one in step order, so that a resumed run sums alike.
        for k in range(taken):
            progress.loss_sum += float(sums[k, 0])
            progress.weight_sum += float(sums[k, 1])
        self._progressive.update(rows, taken * size)
        if taken:
            self._recent += sums[:taken].sum(axis=0)
            weight = float(sums[taken - 1, 1])
            self._last_loss = float(sums[taken - 1, 0]) / weight if weight else None
        cursor = segment.cursor_after(done + taken)
        n_rows = cursor.row - progress.row
        progress.row = cursor.row
        progress.step += taken
        progress.ledger.delivered += n_rows
        self._rows_here += n_rows
        if taken < n:
            raise self._diverged("the loss")
        self._average.take()
        return taken

    def _diverged(self, what: str) -> DivergedError:
        progress = self._state.progress
        last = "none" if self._last_loss is None else f"{self._last_loss:.6g}"
        path = self.checkpoint_path
        kept = f"; parameters of an earlier step are in {path}" if path else ""
        return DivergedError(
            f"{what} is no longer finite (last finite loss {last})",
            where=f"step {progress.step}, epoch {progress.epoch}, row {progress.row}",
            remedy=f"lower --lr{kept}",
        )

    def _rates(self, n: int) -> npt.NDArray[np.float64]:
        progress = self._state.progress
        return self._schedule.rates(progress.step, n) * progress.rate_factor

    def parameters(self) -> npt.NDArray[np.float32]:
        """Return the parameters that are validated and kept: (P,) float32, settled."""
        return self._average.parameters()

    def _end_epoch(self, *, ended: bool) -> Iterator[Event]:
        progress, settings = self._state.progress, self._settings
        if ended:
            progress.train_loss = (
                progress.loss_sum / progress.weight_sum if progress.weight_sum else None
            )
        first = progress.epoch == 0
        if first:
            # Kept before the validation, which may be stopped and done again.
            self._keep_progressive()
        if self._has_valid:
            yield self._validate()
        event: Event = {
            "event": "epoch",
            "epoch": progress.epoch,
            "step": progress.step,
            "train": {"loss": self._train_loss()},
            "valid": progress.valid,
        }
        if first:
            event["progressive"] = progress.progressive
        if settings.early_stop and self._has_valid:
            self._keep_best()
            event["best_epoch"] = progress.best_epoch
        if settings.schedule == "plateau":
            progress.follow_plateau(
                progress.valid.get("loss"), patience=settings.patience, decay=settings.decay
            )
            event["lr_factor"] = progress.rate_factor
        if ended:
            n_rows = self._dataset.n_rows("train")
            ledger = progress.ledger
            ledger.expected += n_rows
            ledger.dropped += n_rows - self._reader.rows_in_epoch()
            progress.epoch += 1
            progress.row = 0
            progress.loss_sum = progress.weight_sum = 0.0
        yield event

    def _keep_progressive(self) -> None:
        progress = self._state.progress
        if progress.progressive.get("rows") != progress.row:
            loss = {"loss": self._train_loss(), "rows": progress.row}
            progress.progressive = {**loss, **self._progressive.result()}
        self._progressive.end()

    def _train_loss(self) -> float | None:
        progress = self._state.progress
        if progress.weight_sum:
            return progress.loss_sum / progress.weight_sum
        return progress.train_loss

    def _validate(self) -> Event:
        progress = self._state.progress
        parameters = self.parameters()
        started = time.perf_counter()
        try:
            found = evaluate_split(
                self._dataset,
                "valid",
                self._model,
                parameters,
                n_threads=self._plan.n_readers,
                io=self._resources.io,
                auc_rows=self._plan.auc_rows,
                should_stop=self._should_stop,
            )
            # Of several targets those of each are told by `evaluate`: here they are one too many.
            found.pop("outputs", None)
            progress.valid = found
        except StoppedError as error:
            raise self._stopped() from error
        except DivergedError as error:
            raise self._diverged("a score of the validation rows") from error
        return {
            "event": "valid",
            "epoch": progress.epoch,
            "step": progress.step,
            "seconds": time.perf_counter() - started,
            **progress.valid,
        }

    def _keep_best(self) -> None:
        progress = self._state.progress
        loss = progress.valid.get("loss")
        if loss is None or (progress.best_loss is not None and loss >= progress.best_loss):
            progress.stale_epochs += 1
            return
        progress.best_loss, progress.best_epoch, progress.stale_epochs = loss, progress.epoch, 0
        self._state.best[:] = self.parameters()

    def _checkpoint_due(self) -> bool:
        step = self._state.progress.step
        if step == self._saved_step:
            return False
        every, seconds = self._resources.checkpoint_steps, self._resources.checkpoint_seconds
        return bool(
            (every and step % every == 0)
            or (seconds and time.monotonic() - self._saved_at >= seconds)
        )

    def checkpoint(self) -> Event:
        """Commit a checkpoint now, and return its event."""
        progress = self._state.progress
        progress.seconds = self._earlier_s + time.monotonic() - self._started
        started = time.perf_counter()
        try:
            self.checkpoint_path = self._save()
        except DivergedError as error:
            raise self._diverged("a parameter") from error
        self._saved_step = progress.step
        self._saved_at = time.monotonic()
        return {
            "event": "checkpoint",
            "step": progress.step,
            "epoch": progress.epoch,
            "row": progress.row,
            "seconds": time.perf_counter() - started,
            "path": self.checkpoint_path,
        }

    def _stopped(self) -> StoppedError:
        self.checkpoint()
        return StoppedError(
            f"stopped at step {self._state.progress.step} with a checkpoint",
            where=self.checkpoint_path,
            remedy="run it again with --resume auto",
        )

    def _progress_event(self) -> Event:
        progress = self._state.progress
        now = time.monotonic()
        rate = (self._rows_here - self._rows_shown) / (now - self._shown_at)
        loss = float(self._recent[0] / self._recent[1]) if self._recent[1] else None
        fraction = progress.step / self._total_steps
        steps_left = self._total_steps - progress.step
        rows_left = steps_left * self._settings.batch_size
        self._shown_at, self._rows_shown = now, self._rows_here
        self._recent[:] = 0
        return {
            "event": "progress",
            "epoch": progress.epoch,
            "step": progress.step,
            "row": progress.row,
            "loss": loss,
            "lr": float(self._rates(1)[0]),
            "rows_per_s": rate,
            "rss_bytes": memory.resident_bytes(),
            "fraction": fraction,
            "seconds_left": rows_left / rate if rate > 0 else None,
        }

    def _ledger(self) -> dict[str, int]:
        progress = self._state.progress
        ledger = progress.ledger
        return {
            # Rows of epochs that ended, and of one that --max-steps ended early.
            "expected": ledger.expected + progress.row,
            "delivered": ledger.delivered,
            "skipped": ledger.skipped,
            "dropped": ledger.dropped,
        }

    def _check_ledger(self) -> None:
        rows = self._ledger()
        if rows["expected"] != rows["delivered"] + rows["skipped"] + rows["dropped"]:
            listed = ", ".join(f"{name} {n}" for name, n in rows.items())
            raise StreamtrainError(
                f"the rows of the run do not add up: {listed}", where="epoch ledger"
            )

    def summary(self) -> Event:
        """Return the figures of the run so far, for the last event."""
        progress = self._state.progress
        here_s = time.monotonic() - self._started
        seconds = self._earlier_s + here_s
        times = self._reader.times
        waited = min(times.wait_s / here_s, 1.0) if here_s > 0 else 0.0
        filled = times.read_s + times.decode_s
        read = waited * times.read_s / filled if filled > 0 else 0.0
        return {
            "steps": progress.step,
            "epochs": progress.epoch,
            "rows": progress.ledger.delivered,
            "seconds": seconds,
            "rows_per_s": self._rows_here / here_s if here_s > 0 else 0.0,
            "train": {"loss": self._train_loss()},
            "valid": dict(progress.valid),
            "progressive": dict(progress.progressive),
            "ledger": self._ledger(),
            "stall": {"read": read, "decode": waited - read, "compute": 1.0 - waited},
            "first_batch_s": self.first_batch_s,
        }
