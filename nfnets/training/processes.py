"""Several processes, one per host or per accelerator: start, agreement, and end.

With one process every function here is trivial, so the rest has one form only.
Every process must call the functions that talk to the others in the same order.
"""

from __future__ import annotations

import collections
import hashlib
import ipaddress
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nfnets.errors import UserError
from nfnets.training import parallel

# Votes a process may be ahead of their outcome, so that a vote never waits.
_VOTES_AHEAD = 2
_MESSAGE_BYTES = 2048

EXIT_INTERRUPTED = 75

# Seconds to wait for the others at the start, and for a sign of life of one of them.
JOIN_TIMEOUT_S, HEARTBEAT_S = 300, 100

# Threads of this name compile what a run that ends no longer needs; see `leave`.
COMPILING = "nfnets-compile"


def initialize(
    *,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    log: Callable[[str], None],
    join_timeout_s: int = JOIN_TIMEOUT_S,
    heartbeat_s: int = HEARTBEAT_S,
) -> None:
    """Joins the other processes; does nothing where there are none.

    Must come before anything else asks JAX for its devices. Process 0 listens for the
    others at the coordinator's address alone, without asking who they are; on a
    cluster, which gives no address, on every network interface. The environment
    variable ``JAX_COORDINATOR_BIND_ADDRESS`` (``HOST:PORT``) says another place.

    Args:
      coordinator: ``HOST:PORT`` of process 0, for all processes the same; None asks the
        cluster (TPU pod, Slurm, Open MPI, Kubernetes), and where there is no cluster
        this process is alone.
      num_processes: with ``coordinator``: how many there are.
      process_id: with ``coordinator``: 0 to ``num_processes - 1``.
      log: is told before the wait for the others begins.
      join_timeout_s: seconds to wait for them; JAX then ends the program (status 134).
      heartbeat_s: seconds without a sign of life after which a process counts as lost;
        JAX then ends the others (status 134), also those that wait.

    Raises:
      UserError: only some of the three are given, or they cannot be.
    """
    _check_seconds(join_timeout_s=join_timeout_s, heartbeat_s=heartbeat_s)
    _check_complete(
        coordinator=coordinator, num_processes=num_processes, process_id=process_id
    )
    if coordinator is not None:
        _check_address(coordinator, num_processes, process_id)
        log(
            f"process  {process_id} of {num_processes}, waiting up to "
            f"{join_timeout_s} s for the others at {coordinator} (same command, other "
            f"--process_id)"
        )
    try:
        jax.distributed.initialize(
            coordinator_address=coordinator,
            num_processes=num_processes,
            process_id=process_id,
            coordinator_bind_address=bind_address(coordinator),
            initialization_timeout=join_timeout_s,
            heartbeat_timeout_seconds=heartbeat_s,
            shutdown_timeout_seconds=60,
        )
    except ValueError as error:
        if coordinator is None and "coordinator_address" in str(error):
            return  # no cluster
        raise UserError(f"cannot start with several processes: {error}") from error
    if num_processes is not None and jax.process_count() != num_processes:
        raise UserError(
            f"--num_processes={num_processes}, but the others say "
            f"{jax.process_count()}; give the same number everywhere"
        )


def bind_address(coordinator: str | None) -> str | None:
    """Where process 0 listens; None leaves that to JAX: on every interface."""
    chosen = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    if chosen is not None or coordinator is None:
        return chosen
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return None
    # Many machines know their own name as 127.0.1.1, where no other would find them.
    is_loopback = any(ipaddress.ip_address(address).is_loopback for address in found)
    given_so = host == "localhost" or host in found
    return coordinator if given_so or not is_loopback else None


def _check_seconds(**flags: int) -> None:
    for flag, seconds in flags.items():
        if seconds < 1:
            raise UserError(f"--{flag}={seconds}: expected at least 1 second")


def _check_complete(**flags: Any) -> None:
    """All of the flags, or none."""
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if missing and len(missing) < len(flags):
        raise UserError(f"{', '.join(missing)} must be given too, on every process")


def _check_address(
    coordinator: str, num_processes: int | None, process_id: int | None
) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT of process 0")
    assert num_processes is not None
    assert process_id is not None
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: expected 0 to {num_processes - 1}, as there "
            f"are {num_processes} processes"
        )


def is_main() -> bool:
    """Whether this is process 0, which alone writes and speaks."""
    return jax.process_index() == 0


def on_main(action: Callable[[], Any]) -> None:
    """Runs ``action`` on process 0 only, and waits for it everywhere.

    Raises:
      UserError: on every process, what the action raised.
    """
    if jax.process_count() == 1:
        action()
        return
    message = ""
    if is_main():
        try:
            action()
        except UserError as error:
            message = str(error) or "a user error"
    sent = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = message.encode()[:_MESSAGE_BYTES]
    sent[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent))
    text = received.tobytes().rstrip(b"\0").decode(errors="replace")
    if text:
        raise UserError(text)


def total(number: int) -> int:
    """The sum of every process's ``number``."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.asarray(number, np.int32)).sum())


def of_main(number: int) -> int:
    """Process 0's ``number``."""
    return total(number if is_main() else 0)


def share_of(number: int) -> int:
    """The part of this process in a number that `total` puts together again."""
    each, rest = divmod(number, jax.process_count())
    return each + (jax.process_index() < rest)


def all_agree(answer: bool) -> bool:
    """Whether every process says yes."""
    return total(int(answer)) == jax.process_count()


def check_same(facts: Mapping[str, Any]) -> None:
    """Checks that every process has the same settings, versions and data.

    Args:
      facts: JSON values by what they are, as a message would call them.

    Raises:
      UserError: names those that differ, on every process.
    """
    if jax.process_count() == 1:
        return
    digests = [
        hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).digest()
        for fact in facts.values()
    ]
    mine = np.frombuffer(b"".join(digests), np.uint8).reshape(len(facts), -1)
    everyone = np.asarray(multihost_utils.process_allgather(mine))  # [P, facts, 32]
    differs = (everyone != everyone[:1]).any(axis=(0, 2))
    names = [name for name, d in zip(facts, differs, strict=True) if d]
    if names:
        raise UserError(
            f"the processes do not have the same {', '.join(names)}; start all of them "
            f"with the same command, packages and data"
        )


class StopVote:
    """Says on every process at the same step that one of them was asked to stop.

    Args:
      requested: whether this process was asked, by a signal for instance.
    """

    def __init__(self, requested: Callable[[], bool]) -> None:
        self._requested = requested
        self._stopped = False
        self._votes: collections.deque[jax.Array] = collections.deque()
        self._any = jax.pmap(
            lambda vote: jax.lax.pmax(vote, "process"),
            axis_name="process",
            out_axes=None,
        )

    def __call__(self) -> bool:
        """Votes, and reads the outcome of the vote two calls ago."""
        if jax.process_count() == 1:
            return self._requested()
        vote = np.full(jax.local_device_count(), self._requested(), np.int32)
        self._votes.append(self._any(vote))
        if len(self._votes) > _VOTES_AHEAD:
            outcome = parallel.fetch(self._votes.popleft())
            self._stopped = self._stopped or bool(outcome)
        return self._stopped


def name() -> str:
    """As in "process 1"; empty where there is only one process."""
    if not jax.distributed.is_initialized():
        return ""
    return f"process {jax.process_index()}"


def leave(status: int) -> int:
    """Ends the process at once where an exit would wait; otherwise gives ``status``.

    A process of several that failed would wait for the others at its exit, and they for
    it. The others meet a broken connection at their next step, and end too. And a step
    that is still compiled for a later stage cannot be stopped: minutes for a large
    network, which a machine that is about to be taken away does not have.
    """
    compiling = any(thread.name == COMPILING for thread in threading.enumerate())
    failed = False
    if jax.distributed.is_initialized():
        failed = status not in (0, EXIT_INTERRUPTED)
        if not failed:  # all processes end here together
            jax.distributed.shutdown()
    if failed or compiling:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
