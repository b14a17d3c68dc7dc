"""A data set as TFDS lays it out: ``DATA_DIR/NAME[/CONFIG]/VERSION/``.

Everything is found by file names and JSON files, so neither TFDS nor TensorFlow is
needed.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
from dataclasses import dataclass, replace
from typing import Any

from nfnets.data import storage
from nfnets.data.tfds_info import Dataset, read_dataset
from nfnets.errors import UserError, did_you_mean

PREPARE_RECORD = "nfnets_prepare.json"  # beside the version folders
_SPEC = re.compile(r"(\w+)(?:/([\w.-]+))?(?::([\d.*]+))?((?:\+\w+)*)", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ANYWHERE = "--config=digits runs anywhere"


class MissingDataset(UserError):
    """The data set is not there, or not all of it: preparing it is what helps."""


@dataclass(frozen=True)
class TfdsName:
    """``NAME[/CONFIG][:VERSION][+SPLIT...]`` and where to look.

    Attributes:
        name: of the data set.
        config: of a data set that has several; ``None`` takes its default.
        version: may hold ``*``; ``None`` takes the newest.
        more_training: TFDS's names of the splits to train on besides ``train``.
        data_dir: where TFDS data sets are, a path or a URL.
        data_dir_given: whether ``data_dir`` is not the default.
    """

    name: str
    config: str | None
    version: str | None
    more_training: tuple[str, ...]
    data_dir: str
    data_dir_given: bool

    @property
    def folder(self) -> str:
        """The parent of the version folders."""
        return storage.join(self.data_dir, self.name, *filter(None, [self.config]))

    @property
    def full_name(self) -> str:
        """``NAME[/CONFIG]``."""
        return self.name if self.config is None else f"{self.name}/{self.config}"

    @property
    def prepare_command(self) -> str:
        """The command that makes the data set, or finishes it."""
        command = f"python experiments/prepare.py {shlex.quote(self.full_name)}"
        if self.name == "imagenet2012":
            command += " --manual_dir=DIR_WITH_TARS"
        if storage.is_url(self.data_dir):
            return f"{command} --file_format=tfrecord, and copy it to {self.data_dir}"
        if self.data_dir_given:
            command += f" --data_dir={shlex.quote(self.data_dir)}"
        return command


def parse_name(text: str, data_dir: str | None) -> TfdsName:
    """Reads ``NAME[/CONFIG][:VERSION][+SPLIT...]``; the default directory is TFDS's."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UserError(
            f"data source 'tfds:{text}': expected NAME[/CONFIG][:VERSION][+SPLIT], "
            "e.g. tfds:imagenet2012, tfds:imagenet2012:5.1.0 or "
            f"tfds:oxford_flowers102+validation ({_ANYWHERE})"
        )
    given = data_dir is not None
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if not storage.is_url(data_dir):
        data_dir = os.path.expanduser(data_dir)
    more = tuple(match[4].split("+")[1:])
    return TfdsName(match[1], match[2], match[3], more, data_dir, given)


def find_dataset(wanted: TfdsName, *, checked: bool = True) -> Dataset:
    """Finds a data set and reads what there is to know before its records.

    Args:
        wanted: the data set.
        checked: refuse one whose checks our prepare command began but did not finish;
            a copy that was made without that command is not refused.

    Raises:
        MissingDataset: it is not there, or its preparation was not finished.
        UserError: files are missing or not as TFDS writes them.
    """
    try:
        entries = storage.list_folder(wanted.folder)
    except FileNotFoundError as error:
        raise _missing(wanted) from error
    folders = [name for name, stat in entries.items() if stat.size is None]
    versions = [name for name in folders if _VERSION.fullmatch(name)]
    if not versions and wanted.config is None:
        config = _default_config(wanted, folders)
        if config is not None:
            return find_dataset(replace(wanted, config=config), checked=checked)
    state = prepare_state(wanted) if PREPARE_RECORD in entries else {}
    unfinished = sorted(name for name in folders if is_incomplete(name))
    if state.get("state") == "building" and state.get("version") not in versions:
        unfinished.append(PREPARE_RECORD)
    chosen = _choose_version(wanted, versions, unfinished)
    reached = state.get("state") if state.get("version") == chosen else None
    if checked and reached in ("building", "checking"):
        raise _half_finished(wanted, PREPARE_RECORD)
    name = "/".join(filter(None, [wanted.name, wanted.config, chosen]))
    directory = storage.join(wanted.folder, chosen)
    return read_dataset(directory, name, wanted.prepare_command)


def is_incomplete(name: str) -> bool:
    """Whether TFDS gives such names to folders that it has not finished."""
    return name.startswith("incomplete.") or ".incomplete" in name


def prepare_state(wanted: TfdsName) -> dict[str, Any]:
    """What our own prepare command wrote about the data set; empty without it."""
    path = storage.join(wanted.folder, PREPARE_RECORD)
    try:
        state = json.loads(storage.read_file(path))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); remove it and run: {wanted.prepare_command}"
        ) from error
    if not isinstance(state, dict) or "state" not in state:
        raise UserError(
            f"{path} has no state; remove it and run: {wanted.prepare_command}"
        )
    return state


def _missing(wanted: TfdsName) -> MissingDataset:
    where = wanted.folder + (f"/{wanted.version}" if wanted.version else "")
    return MissingDataset(
        f"data set {wanted.name} is not at {where}; make it once: "
        f"{wanted.prepare_command}, or name its place by config.data.data_dir, or use "
        f"folder:PATH with class folders, or --config=digits, which runs anywhere"
    )


def _half_finished(wanted: TfdsName, what: str) -> MissingDataset:
    return MissingDataset(
        f"data set {wanted.name} was not prepared to the end "
        f"({storage.join(wanted.folder, what)}); run again: {wanted.prepare_command}"
    )


def _choose_version(
    wanted: TfdsName, versions: list[str], unfinished: list[str]
) -> str:
    """The newest version that fits."""
    fitting = fnmatch.filter(versions, wanted.version or "*")
    if fitting:
        return max(fitting, key=lambda version: [int(n) for n in version.split(".")])
    if unfinished:
        raise _half_finished(wanted, unfinished[0])
    if versions:
        raise MissingDataset(
            f"data set {wanted.name} has no version {wanted.version} in "
            f"{wanted.folder}; there: {', '.join(sorted(versions))}"
        )
    raise _missing(wanted)


def _default_config(wanted: TfdsName, folders: list[str]) -> str | None:
    """The config to use where none is named; ``None`` where there are none."""
    configs = [n for n in folders if not n.startswith(".") and not is_incomplete(n)]
    try:
        path = storage.join(wanted.folder, ".config", "metadata.json")
        default = json.loads(storage.read_file(path)).get("default_config_name")
    except (FileNotFoundError, ValueError):
        default = None
    if default in configs:
        return default
    if len(configs) > 1:
        raise UserError(
            f"data set {wanted.name} has several configs in {wanted.folder}; write "
            f"tfds:{wanted.name}/CONFIG, {did_you_mean('', configs)}"
        )
    return configs[0] if configs else None
