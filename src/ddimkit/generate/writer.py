"""Writing in the background, so that it overlaps with drawing."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from ddimkit.generate.shards import Shard

__all__ = ["Writer"]


class Writer:
    """A thread that writes shards in the order they come; at most ``depth`` of them wait, and more make :meth:`put` wait.

    Left as a context, it writes what waits first, after an error too.

    Args:
        write: writes the shard of a block.
        depth: how many may wait.
    """

    def __init__(self, write: Callable[[int, Shard], object], depth: int = 2) -> None:
        self._write = write
        self._queue = queue.Queue[tuple[int, Shard] | None](depth)
        self._thread = threading.Thread(target=self._run, name="ddimkit-writer", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def put(self, block: int, shard: Shard) -> None:
        """Give a shard to be written.

        Raises:
            OSError: an earlier shard could not be written.
        """
        self._raise()
        self._queue.put((block, shard))

    def flush(self) -> None:
        """Return once all shards given are written; errors as for :meth:`put`."""
        self._queue.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:  # else the disk is full or gone, and what waits is dropped
                    self._write(*item)
            except BaseException as error:
                self._error = error
            finally:
                self._queue.task_done()
