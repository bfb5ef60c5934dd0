"""Temporary folders are deleted at the end or, after a kill, by the next process that creates one."""

import multiprocessing
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from neuroprune.files.temporary import OWNER, keep, temporary_folder


def hold(parent, ready):
    with temporary_folder("work-", parent) as folder:
        (folder / "data").write_text("")
        ready.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path):
    """A process that uses a temporary folder."""
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_folder_is_deleted_at_the_end(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder("work-", tmp_path) as folder:
        assert folder.parent == tmp_path and folder.name.startswith("work-")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_killed_process_is_deleted_by_the_next(owner, tmp_path):
    (left,) = tmp_path.iterdir()
    with temporary_folder("work-", tmp_path) as folder:
        assert {left, folder} == set(tmp_path.iterdir())  # the owner is alive
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert (left / "data").exists()
    with temporary_folder("work-", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_kept_stays(tmp_path):
    with temporary_folder("work-", tmp_path) as folder:
        keep(folder)
    with temporary_folder("work-", tmp_path) as other:
        assert folder.exists() and not (folder / OWNER).exists()
    assert list(tmp_path.iterdir()) == [folder] != [other]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_a_folder_of_another_user_is_no_obstacle():
    with tempfile.TemporaryDirectory() as parent, temporary_folder("work-", Path(parent)) as theirs:
        Path(parent).chmod(0o777)
        process = multiprocessing.get_context("fork").Process(target=as_another_user, args=(theirs,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert list(Path(parent).iterdir()) == [theirs]


def as_another_user(theirs):
    os.setgid(65534)
    os.setuid(65534)
    with pytest.raises(PermissionError):
        list(theirs.iterdir())  # otherwise this test would prove nothing
    with temporary_folder("work-", theirs.parent) as folder:
        assert folder.exists()


def test_folders_of_other_programs_stay(tmp_path):
    for name in ("work-theirs", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / OWNER).write_text("")
    with temporary_folder("work-", tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "work-theirs"]
