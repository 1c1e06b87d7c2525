"""What a run is registered as: `register` of an experiment file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from beholder.util.strict_model import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")]


class Register(Section):
    """Publish the best method under this model name. MLflow allows neither `/` nor `:` in it."""

    name: Name
