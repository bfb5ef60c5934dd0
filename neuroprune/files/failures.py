"""Sentences for errors of the disk and of permissions, which every library raises as an error of its own."""

from __future__ import annotations

import errno
import os
import re

REMEDIES = {  # of errors that the user can resolve
    **dict.fromkeys((errno.EACCES, errno.EPERM), "ask the owner for access, or choose another folder."),
    errno.EROFS: "choose a folder on a writable disk.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run the command again."),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) and run the command again.",
}
_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")  # safetensors, and errors put into a text
# torch.save says only that a file could not be written.
_TORCH = re.compile(r"PytorchStreamWriter|unexpected pos|iostream error|basic_ios")


def sentence(error: BaseException) -> str | None:
    """Describe an error that the user can resolve.

    Args:
        error: The error; what it was raised from is looked at too.

    Returns:
        One sentence with the file, if it is known, and what to do; None for any other error.
    """
    chain: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    numbers = [(number, one) for one in chain if (number := _number(one)) in REMEDIES]
    if numbers:
        number, found = numbers[-1]  # the first that was raised
        file = getattr(found, "filename", None)
        return f"{file}: {_text(number)}" if file else _text(number)
    if any(isinstance(one, RuntimeError) and _TORCH.search(str(one)) for one in chain):
        return f"A file could not be written whole; is the disk full? Then {REMEDIES[errno.ENOSPC]}"
    return None


def _text(number: int) -> str:
    return f"{os.strerror(number)}; {REMEDIES[number]}"


def _number(error: BaseException) -> int:
    """Return the operating system's number of an error, 0 if it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else 0
