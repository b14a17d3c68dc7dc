"""Plans as the arrays that the C++ backend reads; its headers have the same layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from nfnets.data import tf_operations, timm_operations
from nfnets.data.operation import Operation
from nfnets.data.plan import Crop
from nfnets.data.train_slots import SlotPlan

# struct Crop, Row (batch.h) and Operation (operations.h).
CROP = np.dtype(
    [
        (name, np.int32)
        for name in (
            "picture",
            "denominator",
            "top",
            "left",
            "height",
            "width",
            "kernel",
            "flip",
            "shift_y",
            "shift_x",
        )
    ]
)
ROW = np.dtype(
    [
        ("slot", np.int32),
        ("first", np.int32),
        ("second", np.int32),
        ("mix", np.int32),
        ("ratio", np.float32),
        ("top", np.int32),
        ("bottom", np.int32),
        ("left", np.int32),
        ("right", np.int32),
        ("truncate", np.int32),
        ("operations_begin", np.int32),
        ("operations_end", np.int32),
    ]
)
OPERATION = np.dtype(
    [("code", np.int32), ("fill", np.int32), ("values", np.float64, (6,))]
)
# (kernel, antialias) -> enum class Kernel (resize.h).
_KERNELS = {
    ("bilinear", True): 0,
    ("bicubic", True): 1,
    ("bilinear", False): 2,
    ("bicubic", False): 3,
    ("bicubic_tf1", False): 4,
}
_NO_FLIP, _FLIP_LAST, _FLIP_FIRST = 0, 1, 2
_NO_MIX, _MIXUP, _CUTMIX = 0, 1, 2
_NOTHING = (0, 0, 0, 0)


class Encoded(NamedTuple):
    """An operation for the C++ code: enum class Code (operations.h) and its numbers.

    Attributes:
        code: which.
        values: six at most.
        fill: colour of holes.
        table: uint8 ``[256, 3]`` of a table operation, whose row becomes values[0].
    """

    code: int
    values: tuple[float, ...] = ()
    fill: int = 0
    table: np.ndarray | None = None


# (operation, S) -> what it is in C++; None where it is not there.
Encode = Callable[[Operation, int], Encoded | None]


class Jobs(NamedTuple):
    """A batch for ``_native.make_batch``.

    Attributes:
        pictures: bytes of JPEG files, and arrays of pixels.
        crops: ``CROP[...]``.
        rows: ``ROW[...]``.
        operations: ``OPERATION[...]``.
        tables: uint8 ``[n, 256, 3]``.
        left_over: rows of the batch, and operations that Python applies afterwards.
    """

    pictures: list[Any]
    crops: np.ndarray
    rows: np.ndarray
    operations: np.ndarray
    tables: np.ndarray
    left_over: list[tuple[int, tuple[Operation, ...]]]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first arguments of ``make_batch``."""
        return self[:5]


class _Lists:
    """The arrays of a :class:`Jobs` while they grow."""

    def __init__(self) -> None:
        self.pictures: dict[int, tuple[int, Any]] = {}  # by identity: copies share one
        self.crops: list[tuple[int, ...]] = []
        self.rows: list[tuple[Any, ...]] = []
        self.operations: list[tuple[int, int, tuple[float, ...]]] = []
        self.tables: list[np.ndarray] = []

    def add_crops(self, plan: SlotPlan) -> int:
        """Returns the number of the first."""
        first = len(self.crops)
        for picture, crop in zip(plan.pictures, plan.crops, strict=True):
            new = len(self.pictures), _buffer(picture.data)
            number, _ = self.pictures.setdefault(id(picture.data), new)
            self.crops.append(_crop_row(number, crop))
        return first

    def add_operations(self, encoded: Sequence[Encoded]) -> tuple[int, int]:
        """Returns where they begin and end."""
        begin = len(self.operations)
        for code, values, fill, table in encoded:
            if table is not None:
                values = (float(len(self.tables)),)
                self.tables.append(table)
            padded = (*values, *(0.0,) * (6 - len(values)))
            self.operations.append((code, fill, padded))
        return begin, len(self.operations)


def make_jobs(
    plans: Sequence[SlotPlan], *, image_size: int, encode: Encode, truncate: bool
) -> Jobs:
    """Turns plans into arrays.

    Args:
        plans: rows that share a picture stand together, and share its decode.
        image_size: S.
        encode: of the semantics in force.
        truncate: whether fractions are dropped rather than rounded.
    """
    lists, left_over = _Lists(), []
    for plan in plans:
        first = lists.add_crops(plan)
        encoded = [encode(operation, image_size) for operation in plan.operations]
        if None in encoded:  # the order counts, so all of them
            left_over.append((plan.row, plan.operations))
            encoded = []
        span = lists.add_operations(cast("list[Encoded]", encoded))
        lists.rows.append((plan.row, first, *_mix_fields(plan, first), truncate, *span))
    return Jobs(
        pictures=[buffer for _, buffer in lists.pictures.values()],
        crops=np.array(lists.crops, CROP),
        rows=np.array(lists.rows, ROW),
        operations=np.array(lists.operations, OPERATION),
        tables=np.array(lists.tables, np.uint8),
        left_over=left_over,
    )


def has_layouts_of(module: Any) -> bool:
    """Whether the compiled module reads the arrays as they are here."""
    sizes = (module.CROP_BYTES, module.ROW_BYTES, module.OPERATION_BYTES)
    return sizes == (CROP.itemsize, ROW.itemsize, OPERATION.itemsize)


def _buffer(data: Any) -> Any:
    return np.ascontiguousarray(data) if isinstance(data, np.ndarray) else data


def _crop_row(picture: int, crop: Crop) -> tuple[int, ...]:
    kernel = _KERNELS[crop.kernel, crop.antialias]
    flip = _NO_FLIP if not crop.flip else _FLIP_FIRST if crop.flip_first else _FLIP_LAST
    return (picture, crop.denominator, *crop.box, kernel, flip, *crop.shift)


def _mix_fields(plan: SlotPlan, first: int) -> tuple[Any, ...]:
    """Second crop, mix, ratio, box."""
    if plan.mix is None:
        return (-1, _NO_MIX, 1.0, *_NOTHING)
    if plan.mix.box is None:
        return (first + 1, _MIXUP, plan.mix.ratio, *_NOTHING)
    return (first + 1, _CUTMIX, plan.mix.ratio, *plan.mix.box)


_GREY = 128 | 128 << 8 | 128 << 16
_TF_CODES = {"AutoContrast": 1, "Equalize": 3, "Color": 4, "Sharpness": 7}
_TIMM_CODES = {
    "AutoContrast": 2,
    "Equalize": 3,
    "Color": 5,
    "Contrast": 6,
    "Sharpness": 8,
}
_TABLE, _WARP_TF, _FILL = 0, 9, 12
_WARP_PIL = {"bilinear": 10, "bicubic": 11}
_LEVELS = np.arange(256, dtype=np.uint8)
# Operations that map each value by itself, so that their function tells their table.
_TABLES = ("Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness")


@functools.lru_cache(maxsize=4096)
def encode_tf(operation: Operation, image_size: int) -> Encoded:
    """An operation of ``nfnets.data.tf_operations``."""
    name, argument = operation.name, operation.argument
    if name in _TF_CODES:
        return Encoded(_TF_CODES[name], (argument,))
    if name in tf_operations.GEOMETRIC:
        matrix = tf_operations.warp_matrix(name, argument, image_size, image_size)
        return Encoded(_WARP_TF, matrix, _GREY)
    if name == "Cutout":
        half = int(argument)
        y, x = int(operation.row * image_size), int(operation.column * image_size)
        box = (y - half, y + half, x - half, x + half)
        return Encoded(_FILL, tuple(map(float, box)), _GREY)
    if name == "Contrast":
        table = tf_operations.contrast_table(argument, image_size, image_size)
        return Encoded(_TABLE, table=_three(table))
    return Encoded(_TABLE, table=_table(tf_operations.OPERATIONS[name], argument))


@functools.lru_cache(maxsize=4096)
def encode_timm(operation: Operation, image_size: int) -> Encoded | None:
    """An operation of ``nfnets.data.timm_operations``; not GaussianBlur."""
    name, argument = operation.name, operation.argument
    if name in _TIMM_CODES:
        return Encoded(_TIMM_CODES[name], (argument,))
    if name in timm_operations.GEOMETRIC:
        matrix = timm_operations.warp_matrix(name, argument, image_size, image_size)
        red, green, blue = timm_operations.FILL
        fill = red | green << 8 | blue << 16
        return Encoded(_WARP_PIL[operation.kernel], matrix, fill)
    if name not in _TABLES:
        return None
    return Encoded(_TABLE, table=_table(timm_operations.PIXELWISE[name], argument))


def _table(function: Callable[..., np.ndarray], argument: float) -> np.ndarray:
    levels = _three(_LEVELS).reshape(256, 1, 3)
    return function(levels, argument).reshape(256, 3)


def _three(table: np.ndarray) -> np.ndarray:
    """``[256]`` -> the same for each channel, ``[256, 3]``."""
    return np.repeat(table[:, None], 3, axis=1)


ENCODE: dict[str, Encode] = {"tf": encode_tf, "timm": encode_timm}
