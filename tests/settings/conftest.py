"""A directory to write configurations in, and a loader that reads them without this machine's environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from quotapool.settings import ConfigError, Settings, load

KEY = {"OPENAI_API_KEYS": "sk-proj-one"}
Load = Callable[..., Settings]
Refusal = Callable[..., str]


@pytest.fixture
def load_yaml(tmp_path: Path) -> Load:
    """Load this YAML, in an environment with one upstream key unless told otherwise."""

    def from_text(text: str = "", env: Mapping[str, str] = KEY, **more: object) -> Settings:
        file = tmp_path / "quotapool.yaml"
        file.write_text(text, encoding="utf-8")
        return load(file, env={"HOME": "/home/op", **env}, **more)

    return from_text


@pytest.fixture
def refusal(load_yaml: Load, tmp_path: Path) -> Refusal:
    """The message that this YAML earns, with the folder's name taken out, and columns: test_mistakes.py has these."""

    def from_text(text: str = "", env: Mapping[str, str] = KEY, **more: object) -> str:
        with pytest.raises(ConfigError) as caught:
            load_yaml(text, env, **more)
        return re.sub(r"(yaml:\d+):\d+", r"\1", str(caught.value).replace(f"{tmp_path}/", ""))

    return from_text
