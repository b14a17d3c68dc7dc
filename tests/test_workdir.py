"""The work directory: one run's, written whole or not at all."""

import functools
import json
import os
import shutil

import pytest
from etils import epath
from helpers import recipe_of

from nfnets.errors import UserError
from nfnets.training import workdir
from nfnets.training.added_fields import ADDED_FIELDS
from nfnets.training.run_weights import read_recipe


@pytest.fixture(scope="module")
def recipe():
    return recipe_of("digits")


def test_another_recipe_is_refused_with_the_difference(tmp_path, recipe):
    workdir.claim(tmp_path, recipe)
    workdir.append_row(tmp_path, {"step": 1})
    workdir.claim(tmp_path, recipe)  # the same again is fine
    before = (tmp_path / "config.json").read_bytes()
    other = recipe_of("digits", seed=1, optim__momentum=0.8)
    message = r"seed: 0 -> 1; optim\.momentum: 0\.9 -> 0\.8"
    with pytest.raises(UserError, match=message):
        workdir.claim(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_settings_that_change_no_number_may_differ(tmp_path, recipe):
    workdir.claim(tmp_path, recipe)
    workdir.append_row(tmp_path, {"step": 1})
    workdir.claim(tmp_path, recipe_of("digits", data__threads=7, eval__batch_size=9))


def test_a_run_that_left_nothing_may_be_replaced(tmp_path, recipe):
    workdir.claim(tmp_path, recipe)
    other = recipe_of("digits", seed=1)
    workdir.claim(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="seed: 1 -> 0"):
        workdir.claim(tmp_path, recipe)


@pytest.mark.parametrize("line", [b'{"st', b"5", b'{"a": "\xff"}'])
def test_a_damaged_row_is_named(tmp_path, line):
    lines = (b'{"step": 1}', line, b'{"step": 3}', b"")
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        workdir.read_rows(tmp_path)


def test_a_lock_that_cannot_be_opened_is_said(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(UserError, match=r"cannot lock .*: Is a directory"),
        workdir.locked(tmp_path),
    ):
        pass


def test_a_run_from_before_a_field_was_added_goes_on(tmp_path, recipe):
    workdir.claim(tmp_path, recipe)
    workdir.append_row(tmp_path, {"step": 1})
    stored = json.loads((tmp_path / "config.json").read_text())
    for path in ADDED_FIELDS:
        *parents, field = path.split(".")
        del functools.reduce(dict.__getitem__, parents, stored)[field]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    workdir.claim(tmp_path, recipe)
    assert read_recipe(epath.Path(tmp_path)) == recipe
    other = recipe_of("digits", optim__layer_decay=0.75)
    with pytest.raises(UserError, match=r"optim\.layer_decay: None -> 0\.75"):
        workdir.claim(tmp_path, other)


@pytest.mark.parametrize("text", ['{"name": ', "[1]", None])
def test_a_damaged_config_is_not_taken_for_a_new_directory(tmp_path, recipe, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    workdir.append_row(tmp_path, {"step": 1})
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        workdir.claim(tmp_path, recipe)


def test_the_names_of_the_classes_are_kept_and_must_stay(tmp_path):
    assert workdir.read_class_names(tmp_path) is None
    workdir.keep_class_names(tmp_path, ("cat", "Kuh"))
    workdir.keep_class_names(tmp_path, ("cat", "Köhlerfisch"))  # nothing was logged yet
    workdir.append_row(tmp_path, {"step": 1})
    workdir.keep_class_names(tmp_path, ("cat", "Köhlerfisch"))
    assert workdir.read_class_names(tmp_path) == ("cat", "Köhlerfisch")
    for names, change in (
        (("cat", "cow"), "label 1 was 'Köhlerfisch' and is 'cow'"),
        (("cat", "Köhlerfisch", "dog"), "label 2 was None and is 'dog'"),
        (("cat",), "label 1 was 'Köhlerfisch' and is None"),
    ):
        with pytest.raises(UserError, match=change):
            workdir.keep_class_names(tmp_path, names)
    (tmp_path / "classes.json").unlink()  # as of a run that is older than the file
    workdir.keep_class_names(tmp_path, ("cat", "cow"))
    (tmp_path / "classes.json").write_text('{"cat": 0}')
    with pytest.raises(UserError, match="no list of names; restore or remove it"):
        workdir.read_class_names(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    for place in ("file", "file/inside", "run"):
        with pytest.raises(UserError, match=f"cannot write .*{place}.*--workdir"):
            workdir.make_writable(tmp_path / place)


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    with (
        workdir.locked(tmp_path),
        pytest.raises(UserError, match="another process is training in"),
        workdir.locked(tmp_path),
    ):
        pass
    with workdir.locked(tmp_path):  # free again
        pass


def test_too_little_space_is_said_before_the_run(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    workdir.check_space(tmp_path, state_bytes=400_000)
    with pytest.raises(UserError, match=r"0\.00 GB free, checkpoints need 2\.20 GB"):
        workdir.check_space(tmp_path, state_bytes=1_000_000_000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        workdir.append_row(tmp_path, {"step": 1})


def test_floats_read_back_to_the_same_bits(tmp_path):
    values = [0.1, 1 / 3, 6.880019041795541e-07, 1.0000001192092896]
    workdir.append_row(tmp_path, {"step": 1, "values": values})
    assert workdir.read_rows(tmp_path) == [{"step": 1, "values": values}]


def test_a_torn_last_line_is_dropped_and_no_other(tmp_path):
    assert not workdir.drop_torn_row(tmp_path)
    workdir.append_row(tmp_path, {"step": 1})
    assert not workdir.drop_torn_row(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "train/lo')
    assert workdir.drop_torn_row(tmp_path)
    assert workdir.read_rows(tmp_path) == [{"step": 1}]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    workdir.write_atomically(path, "old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        workdir.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


def test_config_json_is_the_recipe(tmp_path, recipe):
    workdir.claim(tmp_path, recipe)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert type(recipe).from_config(stored) == recipe
