"""Whatever is in the file or the environment: settings, or a ConfigError; never another exception."""

from __future__ import annotations

import contextlib

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from quotapool.settings import ConfigError, Settings, changed_sections, from_wire, load, to_wire

NAMES = st.sampled_from([
    *Settings.model_fields, "id", "secret", "secret_file", "key", "key_hash", "account", "tier", "default",
    "models", "rpm", "max_wait", "connect", "level", "a",
])  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.sampled_from(["5s", "1MiB", "${K}", "${", "redis+sentinel://h/x", "http://h/v1", "127.0.0.1:1", "sk-a", "a"])
)
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))
ENVIRONMENT = st.dictionaries(
    st.sampled_from(["K", "OPENAI_API_KEYS", "QUOTAPOOL_QUEUE", "QUOTAPOOL_KEYS", "QUOTAPOOL_REDIS", "QUOTAPOOL_X"]),
    st.text(max_size=12) | st.sampled_from(["{max_wait: 1}", "[{secret: a}]", "null", "a,b"]),
)


@settings(max_examples=300, deadline=None)
@given(tree=st.dictionaries(NAMES, TREES, max_size=5), env=ENVIRONMENT)
def test_any_tree_of_options_is_accepted_or_refused_in_words(tmp_path_factory, tree, env):
    file = tmp_path_factory.mktemp("any") / "quotapool.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=False))
    with contextlib.suppress(ConfigError):
        loaded = load(file, env=env)
        assert changed_sections(loaded, from_wire(to_wire(loaded))) == set()


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab:-#&*!|>'\"{}[],?%@$\\ \n\t\x00é0.\u201c\u200b\u00a0\uff1a\ufeff\u2028", max_size=40))
def test_any_text_is_accepted_or_refused_in_words(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("any") / "quotapool.yaml"
    file.write_text(text)
    with contextlib.suppress(ConfigError):
        load(file, env={"OPENAI_API_KEYS": "sk-a"})
