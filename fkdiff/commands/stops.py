"""Ways for a command to end early, each with its exit code and one clear line."""

import errno

__all__ = ["Stop", "disk_full", "failed", "refused"]


class Stop(Exception):
    """Ends the command.

    Arguments:
        message: What went wrong and what to do, one line; empty to say nothing.
        code: Exit code: 2 refused before anything was done, 1 failed on the way, 130 interrupted.
        lacks: What there wasn't enough of: "memory", "disk" or nothing.
    """

    def __init__(self, message: str, code: int, lacks: str = "") -> None:
        super().__init__(" ".join(message.split()))
        self.code, self.lacks = code, lacks


def refused(message: object) -> Stop:
    """A request that can't be met, told before anything is written.

    >>> refused("particles must be at least 1,\\n got 0").args
    ('particles must be at least 1, got 0',)
    """
    return Stop(str(message), code=2)


def failed(message: object, lacks: str = "") -> Stop:
    """A failure on the way; what was made is kept."""
    return Stop(str(message), code=1, lacks=lacks)


def disk_full(error: BaseException) -> str | None:
    """What to say of an error by which a file can't grow; None for any other."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not (isinstance(error, OSError) and error.errno in full):
        return None
    where = f" {error.filename}" if error.filename else ""
    return f"can't write{where}: {error.strerror}; free some space"
