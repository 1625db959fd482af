"""A sitting at a trainer: it goes on from what is there, keeps what it reaches, and may end before the last step."""

import json
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ddimkit._training.checkpoint import load_checkpoint, load_portable, save_checkpoint, save_portable
from ddimkit._training.pace import Pace
from ddimkit._training.trainer import Trainer
from ddimkit.loop import check_device
from ddimkit.weights._pieces import has_content

__all__ = ["PORTABLE", "Session", "pick_device"]

PORTABLE = "portable.safetensors"
"""The name whose pieces a portable checkpoint is kept in."""


@dataclass(frozen=True)
class Session:
    """How a trainer is run.

    Args:
        out: folder for ``checkpoint.safetensors`` and ``log.jsonl``; made if missing. Training goes on from the checkpoint there.
        portable: folder for the portable checkpoint, in pieces; where ``out`` has no checkpoint, training is taken up from it.
            None for none.
        minutes: training ends after so long, done or not; None for no end.
        progress: whether to show a progress bar.
        save_seconds: between checkpoints.
        report_every: steps between lines of the log; checkpoints are written there only.
        prefix: what the names of checkpoints and log begin with, where runs of different networks share a folder.

    Raises:
        ValueError: fewer than one step between reports.
    """

    out: Path
    portable: Path | None = None
    minutes: float | None = None
    progress: bool = True
    save_seconds: float = 300.0
    report_every: int = 50
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.report_every < 1:
            raise ValueError(f"report_every must be at least 1, got {self.report_every}")

    def run(self, trainer: Trainer[nn.Module], pace: Callable[[], Pace]) -> dict[str, float]:
        """Train to the end, until the time is over or the process receives SIGTERM, and keep what was reached.

        Args:
            trainer: the run.
            pace: makes its clock; asked only if there is something to do.

        Returns:
            step, loss and the pace's summary.

        Raises:
            WeightsError: a checkpoint is damaged or of another recipe.
            DDIMKitError: the trainer is fast, and the compiled gradients are wrong.
            FloatingPointError: the loss is no longer finite.
        """
        began = saved = time.monotonic()
        self.out.mkdir(parents=True, exist_ok=True)
        self._resume(trainer)
        if trainer.step >= trainer.task.steps:
            return {"step": trainer.step, "loss": trainer.loss}
        clock = pace()
        with _termination() as terminated:
            for _ in trainer.run(progress=self.progress, report_every=self.report_every, stopped=terminated.is_set):
                self._log({"step": trainer.step, "loss": trainer.loss, **clock.report()})
                now = time.monotonic()
                over = terminated.is_set() or (self.minutes is not None and now - began >= 60 * self.minutes)
                if over or now - saved >= self.save_seconds or trainer.step == trainer.task.steps:
                    self._save(trainer)
                    saved = time.monotonic()
                if over:
                    break
        return {"step": trainer.step, "loss": trainer.loss, **clock.summary()}

    def _resume(self, trainer: Trainer[nn.Module]) -> None:
        if self._checkpoint.exists():
            load_checkpoint(trainer, self._checkpoint)
        elif self._pieces is not None and has_content(self._pieces):
            load_portable(trainer, self._pieces)

    def _save(self, trainer: Trainer[nn.Module]) -> None:
        save_checkpoint(trainer, self._checkpoint)
        if self._pieces is not None:
            self._pieces.parent.mkdir(parents=True, exist_ok=True)
            save_portable(trainer, self._pieces)

    def _log(self, line: dict[str, float]) -> None:
        with (self.out / f"{self.prefix}log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    @property
    def _checkpoint(self) -> Path:
        return self.out / f"{self.prefix}checkpoint.safetensors"

    @property
    def _pieces(self) -> Path | None:
        return None if self.portable is None else self.portable / f"{self.prefix}{PORTABLE}"


@contextmanager
def _termination() -> Generator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process; outside the main thread it is never set."""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def terminate(number: int, frame: object) -> None:
        del number, frame
        received.set()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def pick_device(name: str | None) -> torch.device:
    """The device of this name; CUDA if there is one by default."""
    return check_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
