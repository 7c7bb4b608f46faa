"""Files that root makes beside those of another user, as a command may: they become that user's."""

from __future__ import annotations

import os
from pathlib import Path


def give_to_owner(descriptor: int, directory: Path) -> None:
    """As root, give a new file to the owner of its directory, before it has content; else it is ours, which is right.

    A file with content or a second name is left alone: that user may have put it there, and it may be another's. Raises
    OSError.
    """
    if os.geteuid() != 0:
        return
    owner, file = directory.stat(), os.fstat(descriptor)
    if owner.st_uid != 0 and (file.st_uid, file.st_size, file.st_nlink) == (0, 0, 1):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
