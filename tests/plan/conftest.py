from tests.fakes.path_fixtures import open_pool, time_is_virtual

__all__ = ["open_pool", "time_is_virtual"]
