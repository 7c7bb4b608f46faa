from tests.fakes.path_fixtures import open_hall, open_pool, time_is_virtual
from tests.fakes.reuse import open_cached

__all__ = ["open_cached", "open_hall", "open_pool", "time_is_virtual"]
