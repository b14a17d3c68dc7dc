"""TensorBoard scalars, written at once: no thread that a full disk can hang."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from nfnets.training.storage import is_remote, write_atomically


class TensorBoard:
    """Writes events beside the metrics.

    Args:
      directory: where TensorBoard will look; the file is made at the first write.
    """

    def __init__(self, directory: epath.Path) -> None:
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the numbers of this step.

        Raises:
          OSError: they cannot be written; or a UserError, on remote storage.
        """
        if self._writer is None:
            self._writer = EventsWriter(f"{self._local_directory()}/events")
        for name, value in values.items():
            summary = scalar(name, value)
            event = Event(wall_time=time.time(), step=step, summary=summary)
            self._writer.write_event(event)
        self._writer.flush()
        if self._temporary is not None:  # objects on remote storage cannot grow
            for path in epath.Path(self._temporary.name).iterdir():
                write_atomically(self._directory / path.name, path.read_bytes())

    def close(self) -> None:
        """Closes the file; harmless when there is none."""
        if self._writer is not None:
            self._writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _local_directory(self) -> str:
        """Where the file can grow: the directory itself, if it is local."""
        if not is_remote(self._directory):
            return str(self._directory)
        self._temporary = tempfile.TemporaryDirectory()
        return self._temporary.name
