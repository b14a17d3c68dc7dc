"""Work directories on remote storage, whose objects are written whole."""

import pytest
from helpers import TIMED, tiny_recipe

from nfnets.errors import UserError
from nfnets.training import storage, tensorboard, workdir
from nfnets.training.loop import train_and_evaluate


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
