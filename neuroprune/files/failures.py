"""User-readable messages for disk and permission errors, which libraries raise as different exceptions."""

from __future__ import annotations

import errno
import os
import re

REMEDIES = {  # remedies for errors that the user can resolve
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask the owner for access, or choose another folder."),
    errno.EROFS: "choose a folder on a writable disk.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run the command again."),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "something of this name is in the way; move it away."),
    errno.ELOOP: "links lead to each other; replace them by files.",
    errno.ENAMETOOLONG: "choose a shorter name.",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the command again.",
}
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")  # in messages of safetensors and in wrapped errors
# Message of torch.save, which does not give the cause.
_TORCH = re.compile(r"PytorchStreamWriter|unexpected pos|iostream error|basic_ios")


def sentence(error: BaseException) -> str | None:
    """Describe an error that the user can resolve.

    Args:
        error: The error; its causes are checked as well.

    Returns:
        One sentence with the file, if known, and the remedy; None for any other error.
    """
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    numbers = [(number, one) for one in chain if (number := _number(one)) in REMEDIES]
    if numbers:
        number, found = numbers[-1]  # the original error
        file = getattr(found, "filename", None)
        return f"{file}: {_text(number)}" if file else _text(number)
    if any(isinstance(one, RuntimeError) and _TORCH.search(str(one)) for one in chain):
        return f"A file could not be written completely. If the disk is full, {REMEDIES[errno.ENOSPC]}"
    return None


def _text(number: int) -> str:
    return f"{os.strerror(number)}; {REMEDIES[number]}"


def _number(error: BaseException) -> int:
    """Return the operating system's error number, or 0 if there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else 0
