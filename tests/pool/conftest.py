from tests.fakes.path_fixtures import open_hall, open_pool, time_is_virtual

__all__ = ["open_hall", "open_pool", "time_is_virtual"]
