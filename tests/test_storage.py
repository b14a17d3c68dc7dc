"""Files that appear whole or not at all, on a local disk and on remote storage."""

import os

import pytest
from helpers import TIMED, tiny_recipe

from nfnets.data.storage import write_file
from nfnets.errors import UserError
from nfnets.training import storage, tensorboard, workdir
from nfnets.training.loop import train_and_evaluate
from nfnets.weights.writing import write_files


def test_unknown_storage_and_missing_packages(monkeypatch):
    with pytest.raises(UserError, match="s3://bucket/run is neither a local path"):
        storage.as_path("s3://bucket/run")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(
        UserError, match=r"gcsfs is needed for gs://.*nfnets-flax\[gcs\]"
    ):
        storage.as_path("gs://bucket/run")


def test_a_path_knows_where_it_is(tmp_path):
    assert not storage.is_remote(storage.as_path(str(tmp_path)))
    assert storage.is_remote("gs://bucket/run")


def test_a_run_on_remote_storage_writes_the_same(tmp_path, monkeypatch):
    """The remote way of writing, on a local disk, with an interruption."""
    recipe = tiny_recipe(
        batch_size=360, num_epochs=2.0, log_every_steps=1, checkpoint_every_steps=2
    )
    train_and_evaluate(recipe, tmp_path / "local", log=str)
    for module in (storage, workdir, tensorboard):
        monkeypatch.setattr(module, "is_remote", lambda path: True)
    remote = tmp_path / "remote"
    remote.mkdir()
    asked = []

    def after_three_steps():
        asked.append(None)
        return len(asked) > 4

    result = train_and_evaluate(
        recipe, remote, log=str, stop_requested=after_three_steps
    )
    assert not result.complete
    assert train_and_evaluate(recipe, remote, log=str).complete

    def values(directory):
        return {
            (row["step"], key): value
            for row in workdir.read_rows(directory)
            for key, value in row.items()
            if key not in TIMED and "event" not in row
        }

    assert values(remote) == values(tmp_path / "local")
    names = {path.name for path in remote.iterdir()}
    assert {"config.json", "metrics.csv", "curves.png", "report.md"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert ".lock" not in names
    assert not [name for name in names if name.endswith(".tmp")]


def test_what_remote_storage_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "is_remote", lambda path: True)
    with pytest.raises(UserError, match=r"cannot write .*absent"):
        storage.write_atomically(storage.as_path(str(tmp_path / "absent" / "x")), "y")


WRITERS = [
    lambda path, data: write_file(str(path), data),
    storage.write_atomically,
    lambda path, data: write_files({path: data}),
]


@pytest.mark.parametrize("write", WRITERS)
def test_two_writers_of_one_file_do_not_meet(write, tmp_path, monkeypatch):
    """The second writes all of it just before the first puts its own in place."""
    path, replace = tmp_path / "file", os.replace

    def after_another(source, target):
        monkeypatch.setattr(os, "replace", replace)
        write(path, b"second")
        assert path.read_bytes() == b"second"
        replace(source, target)

    monkeypatch.setattr(os, "replace", after_another)
    write(path, b"first")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", WRITERS)
def test_the_disk_has_the_data_before_the_name_changes(write, tmp_path, monkeypatch):
    """Else a power loss may leave an empty file under the name of an older one."""
    synced: list[int] = []
    replace, sync = os.replace, os.fsync

    def recorded(file):
        sync(file)
        synced.append(os.fstat(file).st_ino)

    def checked(source, target):
        assert os.stat(source).st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", checked)
    write(tmp_path / "file", b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
