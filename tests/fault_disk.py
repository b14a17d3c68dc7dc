"""Disks that fill up, cannot be written, or give back something else."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fault_trials import Lab, Row, Trial, assert_same_run, run_again
from real_program import TINY_FLAGS, Process, resumed_from, saved_steps, wait_until

from nfnets.errors import UserError
from nfnets.training import checkpoint

# No file may grow beyond this; the metrics stay below, a checkpoint does not.
FULL_AT_BYTES = 24_000
DISK_BYTES = 4 << 20
DAMAGES = ("truncate", "empty", "delete", "flip")
Arrays = Mapping[str, np.ndarray]


def limit_files(process: Process, size: int) -> None:
    """From now on the process fails to write beyond so many bytes of a file."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


def full_at_save(lab: Lab, workdir: Path, before: int) -> int:
    """The disk is full after so many saves, and has space again after one failure."""
    output = workdir / "output.txt"
    flags = (*TINY_FLAGS, f"--workdir={workdir}")
    process = lab.program.start(*flags, output=output)
    wait_until(lambda: number_of_saves(workdir) >= before, [process])
    limit_files(process, FULL_AT_BYTES)
    wait_until(lambda: "could not save" in output.read_text(), [process])
    limit_files(process, resource.RLIM_INFINITY)
    assert process.wait() == 0, output.read_text()
    assert "(1 in a row)" in output.read_text()
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    assert_same_run(workdir, lab.reference(*TINY_FLAGS))
    return 1


def on_small_disk(lab: Lab, directory: Path) -> int:
    """A file system of its own that somebody else fills, and has space again later.

    A failed save is survived; a row that cannot be written ends the run, which goes on
    then. No trial where this user may not mount one.
    """
    disk, output = directory / "disk", directory / "output.txt"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return 0
    try:
        workdir, filler = disk / "run", disk / "filler"
        flags = (*TINY_FLAGS, f"--workdir={workdir}")
        process = lab.program.start(*flags, output=output)
        wait_until(lambda: saved_steps(workdir), [process])
        fill(filler)
        wait_until(
            lambda: process.poll() is not None or "could not" in output.read_text(), ()
        )
        filler.unlink()
        status, said = process.wait(), output.read_text()
        assert {0: "could not save", 2: "cannot write"}[status] in said, (status, said)
        assert not list((workdir / "checkpoints").glob("*tmp*"))
        run_again(lab, lab.reference(*TINY_FLAGS), workdir, TINY_FLAGS)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    return 1


def fill(file: Path) -> None:
    """Writes until the disk is full."""
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(bytes(4096))


def number_of_saves(workdir: Path) -> int:
    """Saves up to now, of one every eight steps."""
    return max(saved_steps(workdir), default=0) // 8


def full_for_good(lab: Lab, workdir: Path) -> int:
    """The disk is full after one save: the run stops; with space again it goes on."""
    output = workdir / "output.txt"
    process = lab.program.start(*TINY_FLAGS, f"--workdir={workdir}", output=output)
    wait_until(lambda: saved_steps(workdir), [process])
    limit_files(process, FULL_AT_BYTES)
    assert process.wait() == 2, output.read_text()
    said = output.read_text()
    assert "(3 in a row)" in said, said
    assert "free some space" in said.splitlines()[-1], said
    assert not list((workdir / "checkpoints").glob("*tmp*"))
    last = saved_steps(workdir)[-1]
    out = run_again(lab, lab.reference(*TINY_FLAGS), workdir, TINY_FLAGS)
    assert resumed_from(out) == last
    return 3


def full_disks(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    for before in range(3):
        yield Trial(
            f"at save {before + 1}",
            lambda workdir, before=before: full_at_save(lab, workdir, before),
        )
    yield Trial("on a small disk", lambda directory: on_small_disk(lab, directory))
    yield Trial("at three saves", lambda workdir: full_for_good(lab, workdir))


def refused(lab: Lab, workdir: Path, prefix: tuple[str, ...] = ()) -> int:
    """The program says that it cannot write there, before it compiles anything."""
    status, out, err = lab.program.run(
        *TINY_FLAGS, f"--workdir={workdir}", prefix=prefix
    )
    assert status == 2, (out, err)
    assert "cannot write to the work directory" in err, err
    assert "compile" not in out
    assert "Traceback" not in err
    return 1


def read_only(lab: Lab, directory: Path) -> int:
    directory.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # Root may write everywhere, unless it gives this right away.
    as_user = ("setpriv", "--bounding-set=-dac_override")
    try:
        return refused(lab, directory / "run", () if os.geteuid() else as_user)
    finally:
        directory.chmod(stat.S_IRWXU)


def in_place_of(lab: Lab, directory: Path, name: str) -> int:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text("a file")
    return refused(lab, directory / "run")


def bad_places(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    yield Trial("a read-only folder", lambda folder: read_only(lab, folder))
    for name in ("run", "run/checkpoints"):
        yield Trial(
            f"a file in place of {name}",
            lambda folder, name=name: in_place_of(lab, folder, name),
        )
    nowhere = Path("/proc/nfnets/run")
    yield Trial("where nothing can be made", lambda _: refused(lab, nowhere))


def arrays_of(folder: Path, step: int) -> Arrays:
    """The arrays of a whole checkpoint, as orbax alone reads them."""
    with ocp.CheckpointManager(folder.resolve()) as manager:
        restore = ocp.args.Composite(state=ocp.args.StandardRestore())
        return manager.restore(step, args=restore)["state"]


def restore(folder: Path, target: Arrays) -> tuple[Arrays, int, list[str]]:
    """What the program restores: arrays, step, and what it says."""
    said: list[str] = []
    with checkpoint.open_manager(folder, said.append) as manager:
        restored = checkpoint.restore_latest(manager, target, said.append)
    assert restored is not None
    return restored.state, restored.record["step"], said


def damage(path: Path, kind: str, generator: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    if kind == "flip":
        data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
    path.write_bytes(data[: {"truncate": len(data) // 2, "empty": 0}.get(kind)])


def restores_the_truth(
    whole: Path,
    truth: Mapping[int, Arrays],
    directory: Path,
    do: Callable[[Path], None],
) -> int:
    """After damage the latest step is right, or, named, the one before is."""
    copy = directory / "checkpoints"
    shutil.copytree(whole, copy)
    do(copy / str(max(truth)))
    arrays, step, said = restore(copy, jax.eval_shape(lambda: truth[max(truth)]))
    if step != max(truth):
        assert any(f"checkpoint {max(truth)} is damaged" in line for line in said), said
    assert arrays.keys() == truth[step].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, truth[step][name], err_msg=name)
    return 1


def damaged_checkpoints(lab: Lab, count: int) -> Iterator[Trial]:
    """Every file of the latest checkpoint, and random bits of its arrays."""
    whole = lab.reference(*TINY_FLAGS) / "checkpoints"
    truth = {step: arrays_of(whole, step) for step in saved_steps(whole.parent)[-2:]}
    latest = whole / str(max(truth))
    generator = np.random.default_rng(lab.generator.getrandbits(32))
    files = sorted(path for path in latest.rglob("*") if path.is_file())
    data = [path for path in files if path.parent.name == "d"]
    cases = [(path, kind) for path in files for kind in DAMAGES]
    by_size = np.array([path.stat().st_size for path in data], float)
    hit = generator.choice(len(data), count, p=by_size / by_size.sum())
    cases += [(data[index], "flip") for index in hit]
    for path, kind in cases:
        name = path.relative_to(latest)
        yield Trial(
            f"{kind} {name}",
            lambda directory, name=name, kind=kind: restores_the_truth(
                whole,
                truth,
                directory,
                lambda step: damage(step / name, kind, generator),
            ),
        )
    yield Trial("an empty step", lambda directory: empty_step(whole, truth, directory))
    yield Trial("all steps", lambda directory: all_damaged(whole, truth, directory))


def empty_step(whole: Path, truth: Mapping[int, Arrays], directory: Path) -> int:
    """A folder that only has the name of a later step."""
    copy = directory / "checkpoints"
    shutil.copytree(whole, copy)
    (copy / "9999").mkdir()
    arrays, step, _ = restore(copy, jax.eval_shape(lambda: truth[max(truth)]))
    assert step == max(truth)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, truth[step][name], err_msg=name)
    return 1


def all_damaged(whole: Path, truth: Mapping[int, Arrays], directory: Path) -> int:
    copy = directory / "checkpoints"
    shutil.copytree(whole, copy)
    for path in copy.glob("*/state/**/d/*"):
        path.write_bytes(b"")
    before = sorted(copy.rglob("*"))
    with pytest.raises(UserError, match="every checkpoint"):
        restore(copy, jax.eval_shape(lambda: truth[max(truth)]))
    assert sorted(copy.rglob("*")) == before
    return 1


ROWS = (
    Row(
        "R6",
        "the disk is full at save 1, 2, 3 and at three in a row: training goes on, "
        "what a failed save wrote is removed; the third failure ends the run with "
        "status 2, and it goes on from the last checkpoint",
        4,
        full_disks,
    ),
    Row(
        "R7",
        "a work directory that is read-only, a file, or impossible: status 2 before "
        "anything is compiled",
        4,
        bad_places,
    ),
    Row(
        "R8",
        "every file of a checkpoint truncated, emptied, deleted, one bit flipped; "
        "random bits of its arrays flipped: right values or, said, those of the "
        "checkpoint before; all damaged: an error, nothing is changed",
        100,
        damaged_checkpoints,
    ),
)
