"""Pickles in the form of the official F*_haiku.npz, without the packages of 2021.

dill 0.3.3 wrote, by protocol 3, a FlatMapping (dm-haiku 0.0.3) of FlatMappings of
float32 arrays (NumPy before 1.19). A file of this form with the parameters of NFNet-F0
has the length that the official notebook prints for F0_haiku.npz, to the byte.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

# Printed by wget in nfnets/nfnet_demo_colab.ipynb of deepmind-research.
F0_BYTES = 285976842


class Call:
    """Pickled as ``function(*args)``, whose state is then set."""

    def __init__(self, function: Any, *args: Any, state: Any = None):
        self.reduced = (function, args, state)

    def __call__(self) -> None:
        """Makes an instance pass for a function."""

    def __reduce__(self):
        function, args, state = self.reduced
        return (function, args) if state is None else (function, args, state)


def stand_ins(patch: pytest.MonkeyPatch, module: str, *names: str) -> list[Any]:
    """Functions that are pickled as ``module.name``, whether those exist or not."""
    fake = types.ModuleType(module)
    for name in names:
        function = types.FunctionType((lambda: None).__code__, {})
        function.__module__, function.__qualname__ = module, name
        setattr(fake, name, function)
    patch.setitem(sys.modules, module.partition(".")[0], fake)
    patch.setitem(sys.modules, module, fake)
    return [getattr(fake, name) for name in names]


def official_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of float32 arrays whose names are "module/parameter"."""
    with pytest.MonkeyPatch.context() as patch:
        (flat_mapping,) = stand_ins(patch, "haiku._src.data_structures", "FlatMapping")
        dill = stand_ins(patch, "dill._dill", "_get_attr", "_import_module")
        get_attr, import_module = dill
        core = Call(import_module, "numpy.core._multiarray_umath")
        reconstruct = Call(get_attr, core, "_reconstruct")
        byte_order = (3, "<", None, None, None, -1, -1, 0)
        float32 = Call(np.dtype, "f4", 0, 1, state=byte_order)
        modules: dict[str, dict[str, Call]] = {}
        for name, array in arrays.items():
            module, parameter = name.rsplit("/", 1)
            state = (1, array.shape, float32, False, array.tobytes())
            empty = tuple([0])  # a new one each time, as NumPy makes it
            value = Call(reconstruct, np.ndarray, empty, b"b", state=state)
            modules.setdefault(module, {})[sys.intern(parameter)] = value
        tree = {module: Call(flat_mapping, each) for module, each in modules.items()}
        return pickle.dumps(Call(flat_mapping, tree), protocol=3)
