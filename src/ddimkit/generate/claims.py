"""Who computes which block: locks that the system gives back when a process ends, and no clock.

A claim is a lock on one byte of the empty file ``claims``. It only saves double work: two processes that compute one block write
the same bytes under the same name. So a file system without locks does no harm, and neither does a claim that is passed over.
"""

import errno
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ddimkit.generate.shards import Shards

if sys.platform != "win32":
    import fcntl

__all__ = ["Claims", "missing_blocks"]

_BUSY = (errno.EACCES, errno.EAGAIN)
_RANDOM = secrets.SystemRandom()
"""Leaves the caller's random state alone."""

_PATIENCE = 30.0
"""Seconds that a process waits for the last blocks of others where it has computed none itself."""


class Claims:
    """The claims of a process on blocks of a folder; to be closed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._held, self._lock = set[int](), threading.Lock()

    def take(self, block: int) -> bool:
        """Claim a block; False where this process or another one has claimed it."""
        with self._lock:
            if block in self._held:
                return False
            if not self._locked(block):
                return False
            self._held.add(block)
            return True

    def _locked(self, block: int) -> bool:
        if sys.platform == "win32":
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, block)
        except OSError as error:
            return error.errno not in _BUSY  # any other error is of a file system without locks
        return True

    def release(self, block: int) -> None:
        """Give a claim back."""
        with self._lock:
            self._held.discard(block)
            if sys.platform == "win32":
                return
            try:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, block)
            except OSError:
                return  # a file system without locks

    def close(self) -> None:
        """Give all claims back."""
        os.close(self._file)


def missing_blocks(
    shards: Shards, claims: Claims, own: range, finish_writing: Callable[[], object], sleep: Callable[[float], object] = time.sleep
) -> Iterator[int]:
    """Blocks that are missing and claimed for the caller, until all blocks are there: those of its share first, then anyone's.

    Blocks of other shares come in random order, so that free processes seldom meet. Once all missing blocks are claimed by others,
    it waits twice as long as the caller's slowest block took, and then yields one all the same: a process that hangs keeps its
    claim. All folders are listed once; after that only missing files are looked for.

    Args:
        shards: the files.
        claims: of this process.
        own: the blocks of its share.
        finish_writing: returns once all blocks that the caller has computed are written.
        sleep: waits so many seconds.
    """
    slowest = 0.0

    def claimed(blocks: Iterable[int]) -> Iterator[int]:
        nonlocal slowest
        for block in blocks:
            if shards.has(block) or not claims.take(block):
                continue
            if shards.has(block):  # written between the look and the claim
                claims.release(block)
                continue
            began = time.monotonic()
            yield block
            slowest = max(slowest, time.monotonic() - began)

    there = shards.present(own)
    yield from claimed(block for block in own if block not in there)
    finish_writing()
    there = shards.present()
    missing = [block for block in range(len(shards.blocks)) if block not in there]
    _RANDOM.shuffle(missing)
    while missing:
        idle = True
        for block in claimed(missing):
            idle = False
            yield block
        if idle:
            late = _wait(shards, claims, missing, 2 * slowest or _PATIENCE, sleep)
            if late is not None:
                yield late
        finish_writing()
        missing = [block for block in missing if not shards.has(block)]


def _wait(shards: Shards, claims: Claims, missing: list[int], patience: float, sleep: Callable[[float], object]) -> int | None:
    """None once a missing block was written or given back; a block that is still missing where that takes too long."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        sleep(min(1.0, patience / 20))
        for block in missing:
            if shards.has(block):
                return None
            if claims.take(block):
                claims.release(block)
                return None
    return _RANDOM.choice(missing)
