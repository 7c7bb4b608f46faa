"""As many file descriptors as the system allows: each client, each connection upstream and each stream takes one."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

_ENOUGH: Final = 2**20  # what a kernel allows at most, unless it was told otherwise (fs.nr_open)


def raise_file_limit() -> None:
    """The soft limit, mostly 1,024, up to the hard one; processes that are started later have it too.

    The soft one is for programs that call select(), which cannot see more; here nothing does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
