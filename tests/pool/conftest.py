from tests.fakes.path_fixtures import open_hall, open_pool, short_pauses

__all__ = ["open_hall", "open_pool", "short_pauses"]
