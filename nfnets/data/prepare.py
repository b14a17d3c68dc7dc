"""Makes a TFDS data set once and checks all of it: what alone needs TensorFlow.

What was reached is kept in ``nfnets_prepare.json`` beside the version's folder:
``building``, ``checking``, then ``done``, or ``damaged`` where images cannot be
decoded. A run that was killed at any moment is continued by the next one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nfnets.data import prepare_checks, storage
from nfnets.data.tfds_index import load_index
from nfnets.data.tfds_info import FORMATS, Dataset
from nfnets.data.tfds_layout import (
    PREPARE_RECORD,
    MissingDataset,
    TfdsName,
    find_dataset,
    is_incomplete,
    parse_name,
    prepare_state,
)
from nfnets.errors import UserError, did_you_mean
from nfnets.versions import versions

Log = Callable[[str], None]
_PACKAGES = ("tensorflow-datasets", "tensorflow", "tensorflow-cpu", "array_record")


def prepare(
    name: str,
    *,
    manual_dir: str | None,
    data_dir: str | None,
    file_format: str | None,
    threads: int,
    expected: Mapping[str, int],
    log: Log,
) -> None:
    """Builds a data set where it is missing, then checks and indexes it.

    Args:
        name: of TFDS, ``NAME[/CONFIG]``.
        manual_dir: where files are that must be downloaded by hand; ``None`` where
            TFDS downloads them itself.
        data_dir: a local folder for TFDS data sets; ``None`` means
            ``$TFDS_DATA_DIR``, or ``~/tensorflow_datasets``.
        file_format: one of ``FORMATS``; ``None`` is the first for a new data set, and
            whatever it has for one that is there.
        threads: that decode.
        expected: records that splits must have, by TFDS's name; splits that are not
            named may have any number.
        log: is told each step in a line.

    Raises:
        UserError: something is missing, does not fit or is damaged.
    """
    wanted = parse_name(name, data_dir)
    _check_arguments(wanted, file_format, threads)
    with _lock(wanted):
        dataset = _existing(wanted)
        if dataset is None:
            _build(wanted, manual_dir, file_format or FORMATS[0], expected, log)
            dataset = find_dataset(wanted, checked=False)
        elif file_format not in (None, dataset.file_format):
            raise UserError(
                f"{dataset.directory} holds {dataset.file_format} files already; "
                f"remove it, or give another --data_dir for {file_format}"
            )
        prepare_checks.check_counts(dataset, expected)
        if _is_done(wanted, dataset):
            log(f"{dataset.name} in {wanted.data_dir} is prepared and checked already")
        else:
            _check(wanted, dataset, threads, log)


def _check_arguments(wanted: TfdsName, file_format: str | None, threads: int) -> None:
    if storage.is_url(wanted.data_dir):
        raise UserError(
            f"data_dir is {wanted.data_dir}; prepare on a local disk with "
            "--file_format=tfrecord, then copy the data set's folder there"
        )
    if file_format not in (None, *FORMATS):
        raise UserError(
            f"file_format is {file_format!r}; expected {' or '.join(FORMATS)}"
        )
    if wanted.version is not None:
        raise UserError(
            f"{wanted.name}:{wanted.version} names a version; leave it out: TFDS "
            "builds the newest that it knows"
        )
    if threads < 1:
        raise UserError(f"threads is {threads}; expected 1 or more")


def _existing(wanted: TfdsName) -> Dataset | None:
    try:
        return find_dataset(wanted, checked=False)
    except MissingDataset:
        return None


def _is_done(wanted: TfdsName, dataset: Dataset) -> bool:
    """Whether all checks passed, and nothing changed since."""
    state = prepare_state(wanted)
    if (state.get("state"), state.get("dataset")) != ("done", dataset.name):
        return False
    try:
        for split in prepare_checks.labelled_splits(dataset):
            load_index(dataset, split)
    except UserError:
        return False
    return True


def _check(wanted: TfdsName, dataset: Dataset, threads: int, log: Log) -> None:
    state = _state("checking", dataset.directory) | {"dataset": dataset.name}
    _write_state(wanted, state)
    damaged = {
        split: prepare_checks.check_split(dataset, split, threads, log)
        for split in prepare_checks.labelled_splits(dataset)
    }
    records = {
        split: sum(shard.records for shard in dataset.splits[split])
        for split in damaged
    }
    problem = prepare_checks.report_damaged(damaged, records, wanted.folder, log)
    state["records"] = records
    state["damaged"] = {split: len(found) for split, found in damaged.items()}
    _write_state(wanted, state | {"state": "damaged" if problem else "done"})
    if problem:
        raise UserError(problem)
    given = f" --config.data.data_dir={wanted.data_dir}" * wanted.data_dir_given
    log(f"done; train with --config.data.source=tfds:{wanted.full_name}{given}")


def _build(
    wanted: TfdsName,
    manual_dir: str | None,
    file_format: str,
    expected: Mapping[str, int],
    log: Log,
) -> None:
    if wanted.name == "imagenet2012":
        prepare_checks.check_imagenet_tars(manual_dir, wanted, expected)
    if prepare_state(wanted).get("state") == "building":
        _remove_incomplete(wanted)  # ours, and the lock says that nobody is at work
    with _quiet_tensorflow():
        tfds = _import_tfds()
        known = tfds.list_builders(with_community_datasets=False)
        if wanted.name not in known:
            close = did_you_mean(wanted.name, known)
            raise UserError(f"TFDS has no data set {wanted.name!r}; {close}")
        try:
            _download_and_prepare(tfds, wanted, manual_dir, file_format, log)
        except Exception as error:  # TFDS and TensorFlow raise many types
            reason = " ".join(str(error).split())[:400]
            raise UserError(
                f"TFDS could not build {wanted.full_name}: {type(error).__name__}: "
                f"{reason}; mend that and run the command again (docs/imagenet.md has "
                "the checksums of ImageNet's tars)"
            ) from error


def _download_and_prepare(
    tfds: Any, wanted: TfdsName, manual_dir: str | None, file_format: str, log: Log
) -> None:
    builder = tfds.builder(
        wanted.full_name, data_dir=wanted.data_dir, file_format=file_format
    )
    _write_state(wanted, _state("building", str(builder.version)))
    hours = " (all of ImageNet takes hours)" * (wanted.name == "imagenet2012")
    log(
        f"building {builder.info.full_name} with TFDS in {wanted.data_dir}, as "
        f"{file_format}{hours}"
    )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir, try_download_gcs=False
        )
    )


def _import_tfds() -> Any:
    try:
        import tensorflow
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"{error.name or 'tensorflow'} is needed for building TFDS data sets and "
            "is not installed; run: pip install 'nfnets-flax[train,tf]' (reading them "
            "later needs no TensorFlow)"
        ) from error
    tensorflow.config.set_visible_devices([], "GPU")  # it has no use for one here
    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Keeps TFDS's and TensorFlow's own messages from burying ours."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # says so when it is on
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _remove_incomplete(wanted: TfdsName) -> None:
    """Removes what a killed build left."""
    version = prepare_state(wanted)["version"]
    for name in os.listdir(wanted.folder):
        if is_incomplete(name) and version in name:
            shutil.rmtree(os.path.join(wanted.folder, name), ignore_errors=True)


def _state(reached: str, version: str) -> dict[str, Any]:
    """The record's content; the version may be given by its folder."""
    return {
        "state": reached,
        "version": os.path.basename(version),
        "packages": versions(_PACKAGES),
    }


def _write_state(wanted: TfdsName, state: Mapping[str, Any]) -> None:
    os.makedirs(wanted.folder, exist_ok=True)
    path = os.path.join(wanted.folder, PREPARE_RECORD)
    storage.write_file(path, (json.dumps(state, indent=2) + "\n").encode())


@contextlib.contextmanager
def _lock(wanted: TfdsName) -> Iterator[None]:
    """Lets one process at a time prepare data in a place; ends with the process."""
    path = os.path.join(wanted.data_dir, ".nfnets_prepare.lock")
    try:
        os.makedirs(wanted.data_dir, exist_ok=True)
        file = open(path, "w")
    except OSError as error:
        raise UserError(
            f"{wanted.data_dir} cannot be written to ({error.strerror}); give another "
            "--data_dir"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows has none
        except BlockingIOError as error:
            raise UserError(
                f"another process prepares data in {wanted.data_dir}; wait for it"
            ) from error
        except OSError:
            pass  # some network file systems have no locks
        yield
