"""Files and folders are replaced atomically, with the mode of the umask."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuroprune.files.atomic import file_hash, open_to_umask, text_hash, whole_file, whole_folder, write_text
from neuroprune.files.failures import sentence


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def save(path):
    save_file({"a": np.arange(3)}, path)


def test_arrays_have_the_mode_of_the_umask(umask, tmp_path):
    save(tmp_path / "private")
    assert mode(tmp_path / "private") == 0o600  # otherwise this test would prove nothing
    with whole_file(tmp_path / "arrays") as temporary:
        save(temporary)
    write_text(tmp_path / "text", "a")
    assert mode(tmp_path / "arrays") == mode(tmp_path / "text") == 0o666 & ~umask
    assert load_file(tmp_path / "arrays")["a"].tolist() == [0, 1, 2]


def test_a_folder_is_opened_to_the_umask(umask, tmp_path):
    (tmp_path / "sub").mkdir(mode=0o700)
    save(tmp_path / "weights")
    open_to_umask(tmp_path)
    assert mode(tmp_path / "weights") == 0o666 & ~umask
    assert mode(tmp_path / "sub") == 0o700 & ~umask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub", "weights"]


def test_an_error_of_the_system_names_the_file_that_was_to_be_written(monkeypatch, tmp_path):
    def refuse(path, _):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(PermissionError) as found:
        write_text(tmp_path / "runs.csv", "")
    assert found.value.filename == str(tmp_path / "runs.csv")


def test_a_full_disk_is_named_with_the_file_although_a_write_names_none(monkeypatch, tmp_path):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "chmod", fill)
    with pytest.raises(OSError, match="No space left") as found:
        write_text(tmp_path / "runs.csv", "")
    assert sentence(found.value) == (
        f"{tmp_path / 'runs.csv'}: No space left on device; free some space and run the command again."
    )


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_an_exception_leaves_what_was_there(whole, tmp_path):
    target = tmp_path / "a"
    if whole is whole_file:
        target.write_text("old")
    else:
        target.mkdir()
        (target / "b").write_text("old")
    with pytest.raises(ZeroDivisionError), whole(target) as temporary:
        (temporary if whole is whole_file else temporary / "b").write_text("new")
        raise ZeroDivisionError
    assert (target if target.is_file() else target / "b").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_the_earlier_one_and_what_a_killed_process_left(tmp_path):
    for name in (".a.tmp", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("")
    with whole_folder(tmp_path / "a") as temporary:
        (temporary / "new").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_hashes_are_those_of_sha256(tmp_path):
    (tmp_path / "a").write_text("ä", encoding="utf-8")
    assert file_hash(tmp_path / "a") == text_hash("ä")
    assert text_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
