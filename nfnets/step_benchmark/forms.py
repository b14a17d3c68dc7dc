"""The forms of a train step that are compared: ours and timm's."""

from __future__ import annotations

import dataclasses

from nfnets.conv import NATIVE, ConvForm, ConvForms
from nfnets.errors import UserError

TIMM_FORMS = (
    "timm eager NHWC",
    "timm eager NCHW",
    "timm compile NHWC",
    "timm compile NCHW",
)
# The kind of convolution that a form of ours is for, if not for all; `conv.ConvForms`.
_KINDS: dict[str, dict[str, ConvForm]] = {
    "native": {},
    "matmul": {"pointwise": "matmul"},
    "split": {"grouped": "split"},
    "dense": {"grouped": "dense"},
    "shifted": {"depthwise": "shifted"},
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

    FORM is ``native`` or ``matmul``, ``split``, ``dense`` or ``shifted``, for the kind
    of convolutions that has it; others are native then.

    Raises:
      UserError: there is no such form.
    """
    _, *words = form.split()
    flags = tuple(word for word in words if word.startswith("--xla_"))
    names = [name for word in words if word not in flags for name in word.split("+")]
    if not names:
        return OurForm(None, flags)
    if not set(names) <= set(_KINDS):
        raise UserError(
            f"no form {form!r} of our step; expected ours, or ours and "
            f"{', '.join(_KINDS)} or several of these joined by +, then XLA's flags"
        )
    kinds = {kind: form for name in names for kind, form in _KINDS[name].items()}
    if len(kinds) < len(set(names) - {"native"}):
        raise UserError(f"form {form!r} names two forms of one kind of convolutions")
    return OurForm(dataclasses.replace(NATIVE, **kinds), flags)


def check_form(form: str) -> None:
    """Raises UserError, where a form is not known."""
    if is_ours(form):
        parse_our_form(form)
    elif form not in TIMM_FORMS:
        raise UserError(
            f"no form {form!r} of a step; expected ours, or {', '.join(TIMM_FORMS)}"
        )
