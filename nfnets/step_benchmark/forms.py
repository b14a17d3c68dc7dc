"""The forms of a train step that are compared: ours and timm's."""

from __future__ import annotations

import dataclasses
from typing import Any

from nfnets.conv import NATIVE, ConvForms
from nfnets.errors import UserError

TIMM_FORMS = (
    "timm eager NHWC",
    "timm eager NCHW",
    "timm compile NHWC",
    "timm compile NCHW",
)
# The kind of convolution that a form is for; `conv.ConvForms`.
_KINDS = {
    "matmul": "pointwise",
    "split": "grouped",
    "dense": "grouped",
    "shifted": "depthwise",
}


@dataclasses.dataclass(frozen=True)
class OurForm:
    """How our step is built.

    Attributes:
      conv: forms of the convolutions; None: those of the backend.
      xla_flags: that XLA gets beside those of the environment.
    """

    conv: ConvForms | None = None
    xla_flags: tuple[str, ...] = ()


def is_ours(form: str) -> bool:
    """Whether a form names our step."""
    return form.split()[:1] == ["ours"]


def parse_our_form(form: str) -> OurForm:
    """``ours [FORM[+FORM...]] [--xla_FLAG=VALUE ...]`` -> its parts.

    FORM is ``native`` or one of ``matmul``, ``split``, ``dense`` and ``shifted``, for
    the kind of convolutions that has it; the other kinds are native then.

    Raises:
      UserError: there is no such form.
    """
    _, *words = form.split()
    flags = tuple(word for word in words if word.startswith("--xla_"))
    names = [word for word in words if word not in flags]
    if not names:
        return OurForm(None, flags)
    chosen = [name for name in names[0].split("+") if name != "native"]
    if len(names) > 1 or not set(chosen) <= set(_KINDS):
        raise UserError(
            f"no form {form!r} of our step; expected ours, or ours and native, "
            f"{', '.join(_KINDS)} or several of these joined by +, then XLA's flags"
        )
    kinds: dict[str, Any] = {_KINDS[name]: name for name in chosen}
    return OurForm(dataclasses.replace(NATIVE, **kinds), flags)


def check_form(form: str) -> None:
    """Raises UserError, where a form is not known."""
    if is_ours(form):
        parse_our_form(form)
    elif form not in TIMM_FORMS:
        raise UserError(
            f"no form {form!r} of a step; expected ours, or {', '.join(TIMM_FORMS)}"
        )
