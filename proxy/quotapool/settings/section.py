"""The base class of every group of options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown options are errors; nothing changes after loading; a validation error never prints its input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
