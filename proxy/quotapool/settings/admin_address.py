"""The operators' address alone, for a health check: a mistake elsewhere in the file does not make a proxy unhealthy.

A running proxy goes on with what it read before, so whoever gets the file wrong must not have the proxy restarted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from quotapool.settings.document import read_text
from quotapool.settings.draft import Draft
from quotapool.settings.environment import CONFIG, DEFAULTS, PREFIX, file_named, fill_in, read_variables

OPTION: Final = "admin_listen"
DEFAULT: Final = "127.0.0.1:9090"
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's reads thousands of keys in a second


def admin_address(config: Path | None, env: Mapping[str, str]) -> str:
    """As `load` decides it: the environment, the file (`config`, else QUOTAPOOL_CONFIG), the image's defaults."""
    variables = read_variables(env, None, Draft())
    if given := env.get(PREFIX + OPTION.upper(), "").strip():
        return given
    for file in (config or file_named(CONFIG, variables), file_named(DEFAULTS, variables)):
        if file is not None and (written := _written_in(file)):
            draft = Draft({OPTION: written})
            fill_in(draft, variables)
            return str(draft.values[OPTION])
    return DEFAULT


def _written_in(file: Path) -> str:
    """The option's text in the file, read no further than that; "" if it is not there, or there is no such file."""
    depth = 0
    is_name, name = True, ""
    try:
        for event in yaml.parse(read_text(file), Loader=_LOADER):
            if depth == 1 and isinstance(event, yaml.NodeEvent):
                if not is_name and name == OPTION and isinstance(event, yaml.ScalarEvent):
                    return str(event.value)
                name = event.value if is_name and isinstance(event, yaml.ScalarEvent) else ""
                is_name = not is_name
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    except (yaml.YAMLError, ValueError):
        pass
    return ""
