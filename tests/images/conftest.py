"""Image caches that belong to the tests alone, and the real data where it is."""

from image_fixtures import cache, real_root, session_cache, sizes

__all__ = ["cache", "real_root", "session_cache", "sizes"]
