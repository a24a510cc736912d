"""What all sections of the settings have in common."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_BARE_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)")


def without_bare_variable(value: str) -> str:
    """``value``, which is a path or may be one. In a text or an API key a dollar is a dollar; here it is a
    mistake, for which ValueError is raised."""
    if bare := _BARE_VARIABLE.search(value):
        raise ValueError(f"{bare[0]} is not replaced; write ${{{bare[1]}}}, with braces")
    return value


Source = Annotated[str, AfterValidator(without_bare_variable)]
"""A name, or a path."""


class Section(BaseModel):
    """Strict, frozen; the text under a field is its description."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )
