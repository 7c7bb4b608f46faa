"""A reload is not walked by the garbage collector afterwards, and leaves no garbage behind."""

from __future__ import annotations

import gc
import weakref

import pytest
from quotapool.app.collector import collect_rarely, keeping_what_is_built


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def collector():
    before = gc.get_threshold()
    collect_rarely()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
def test_garbage_of_before_and_of_a_reload_is_freed_and_all_else_is_never_walked_again():
    usual = gc.get_threshold()
    of_before = weakref.ref(Cycle())
    with keeping_what_is_built():
        of_it, built = weakref.ref(Cycle()), [[]]
    assert (of_before(), of_it()) == (None, None)
    assert gc.get_freeze_count() > 0
    assert not any(one is built for one in gc.get_objects())
    assert gc.get_threshold() == usual


@pytest.mark.usefixtures("collector")
def test_the_collector_works_as_usual_after_a_reload_that_failed():
    usual = gc.get_threshold()
    with pytest.raises(ValueError, match="bad"), keeping_what_is_built():
        raise ValueError("bad")
    assert gc.get_threshold() == usual
