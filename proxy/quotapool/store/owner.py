"""Files that root makes beside those of another user, as a command may: they become that user's."""

from __future__ import annotations

import os
from pathlib import Path


def give_to_owner(descriptor: int, directory: Path) -> None:
    """As root, give a new file to the owner of its directory; else it is ours, which is right. Raises OSError."""
    if os.geteuid() != 0:
        return
    owner = directory.stat()
    if owner.st_uid != 0 and os.fstat(descriptor).st_uid == 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
