"""All rows of the fault matrix, in order."""

from __future__ import annotations

import fault_disk
import fault_files
import fault_hangs
import fault_kills
import fault_numbers
import fault_processes
import fault_signals
import fault_soak

_BY_FILE = (
    fault_kills,
    fault_signals,
    fault_disk,
    fault_processes,
    fault_hangs,
    fault_numbers,
    fault_files,
    fault_soak,
)
ROWS = tuple(
    sorted(
        (row for module in _BY_FILE for row in module.ROWS),
        key=lambda row: int(row.id[1:]),
    )
)
