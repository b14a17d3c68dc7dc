"""Exports a network: writes it, runs it elsewhere, describes it, puts it in place."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nfnets.errors import UserError
from nfnets.export.check import TOLERANCE, Agreement, ExportError, check
from nfnets.export.describe import describe, size_of
from nfnets.export.formats import Format, find_format
from nfnets.export.network import Network, network_of
from nfnets.training.class_names import class_names
from nfnets.training.tested_weights import Tested

Log = Callable[[str], None]


def check_target(format_name: str, out: str) -> Path:
    """The path of ``--out``, before anything is read.

    Raises:
      UserError: the format is unknown or lacks a package, the path does not fit it, or
        something is there.
    """
    suffix, path = find_format(format_name).suffix, Path(out).expanduser()
    if "://" in out:
        raise UserError(f"--out={out} is not on this machine; give a local path")
    if not out.endswith(suffix):
        raise UserError(f"--out={out} should end in {suffix} (--format={format_name})")
    for file in (path, description_path(path)):
        if file.exists():
            raise UserError(f"{file} exists; remove it, or give another --out")
    return path


def description_path(out: Path) -> Path:
    """``NAME.onnx.json`` of ``NAME.onnx``."""
    return out.with_name(out.name + ".json")


def export_weights(
    tested: Tested, format_name: str, out: Path, *, raw: bool, log: Log
) -> None:
    """Writes a network in a format, and what it is in JSON beside it.

    Args:
      tested: the weights, and the recipe that says what images look like.
      format_name: one of ``FORMATS``.
      out: from ``check_target``.
      raw: whether the weights are taken even where there is a moving average.
      log: is told what is done.

    Raises:
      UserError: the network cannot be exported, or the disk refuses.
      ExportError: what was written does not compute what the network does. It stays in
        a folder beside ``out``, which the message names; nothing is at ``out``.
    """
    chosen = find_format(format_name)
    prefix = "eval" if raw else list(tested.by_prefix)[-1]
    kind = "moving average" if prefix == "eval_ema" else "weights"
    network = network_of(tested, prefix)
    names = class_names(tested.run, tested.recipe, tested.num_classes, log)
    model, size = tested.facts["model"], network.image_size
    log(f"network  {model} at {size} px, float32, {kind}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.unchecked-", dir=out.parent))
        written = folder / out.name
        _write(chosen, network, written, log)
        agreement = _check(chosen, network, written, log)
        facts = describe(tested, network, format_name, written, kind, names, agreement)
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        (folder / "description").write_text(text, encoding="utf-8")
        written.rename(out)
        (folder / "description").rename(description_path(out))
        folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    log(f"wrote    {out}, {description_path(out)}")


def _write(chosen: Format, network: Network, written: Path, log: Log) -> None:
    """Writes it, or leaves nothing."""
    start = time.monotonic()
    try:
        chosen.write(network, written)
    except BaseException:
        shutil.rmtree(written.parent)
        raise
    seconds = time.monotonic() - start
    log(f"written  {size_of(written) / 1e6:.1f} MB in {seconds:.1f} s")


def _check(chosen: Format, network: Network, written: Path, log: Log) -> Agreement:
    start = time.monotonic()
    try:
        agreement = check(network, chosen.loading(written))
    except ExportError as error:
        raise ExportError(f"{error} (see {written})") from error
    sizes = " and ".join(map(str, agreement.batch_sizes))
    difference, relative = agreement.difference, agreement.relative
    log(
        f"checked  in another process, batches of {sizes}: logits differ by up to "
        f"{difference:.2e}, {relative:.1e} of the largest (allowed: "
        f"{TOLERANCE:g}); {time.monotonic() - start:.1f} s"
    )
    return agreement
