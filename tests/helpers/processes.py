"""Information about processes from /proc."""

from pathlib import Path


def alive(number: int) -> bool:
    """Return whether a process exists and has not ended; zombies count as ended."""
    try:
        return _status(number)[0] != "Z"
    except OSError:
        return False


def children(number: int) -> list[int]:
    """Return the running child processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = _status(int(folder.name))
        except OSError:
            continue
        if int(parent) == number and state != "Z":
            found.append(int(folder.name))
    return found


def _status(number: int) -> list[str]:
    """Return the fields of a process's status after its name: state, parent, …"""
    return Path("/proc", str(number), "stat").read_text().rpartition(")")[2].split()
