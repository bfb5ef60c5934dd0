"""Pinned packages are fetched by the real pip from a folder, checked, and unpacked completely or not at all."""

import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuroprune.errors import UserError
from neuroprune.files.atomic import file_hash
from neuroprune.files.packages import Package, build_once, fetch, unpack

FILES = {"tiny/__init__.py": "raise SystemExit('never run')", "tiny/model/config.json": "{}", "tiny/model/a/b.txt": "b"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with one wheel that serves as package index."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def tiny(shelf):
    return Package("tiny==1.0", file_hash(shelf / "tiny-1.0-py3-none-any.whl"))


def left_in(folder):
    """Files and folders, without locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.name.endswith(".lock"))


def test_a_package_is_fetched_once_and_unpacked_without_being_run(tiny, shelf, tmp_path):
    file = fetch(tiny, tmp_path / "r")
    assert file == tmp_path / "r/packages/tiny-1.0/tiny-1.0-py3-none-any.whl"
    (shelf / file.name).unlink()  # from now on, nothing can be fetched
    assert fetch(tiny, tmp_path / "r") == file
    folder = unpack(tiny, "tiny/model", tmp_path / "r")
    assert folder == tmp_path / "r/models/tiny-1.0/tiny/model"
    assert left_in(folder) == ["a", "a/b.txt", "config.json"]
    assert unpack(tiny, "tiny/model/", tmp_path / "r") == folder


def edit(path):
    path.write_text("[]")  # as long as it was


def cut(path):
    path.write_text("")


def add(path):
    path.with_name("model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize("damage", [edit, cut, Path.unlink, add])
def test_an_unpacked_folder_that_differs_from_its_package_is_unpacked_again(damage, tiny, tmp_path, caplog):
    folder = unpack(tiny, "tiny/model", tmp_path / "r")
    assert caplog.text == ""
    damage(folder / "config.json")
    assert unpack(tiny, "tiny/model", tmp_path / "r") == folder
    assert f"{folder} differs from the package tiny==1.0: it is unpacked again" in caplog.text
    assert left_in(folder) == ["a", "a/b.txt", "config.json"]
    assert (folder / "config.json").read_text() == "{}"
    caplog.clear()
    unpack(tiny, "tiny/model", tmp_path / "r")
    assert caplog.text == ""


@pytest.mark.parametrize("name", ["tiny/model//{place}/outside.txt", "tiny/model/../../outside.txt"])
def test_a_wheel_that_writes_outside_its_folder_is_refused(name, shelf, tmp_path):
    file = shelf / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "a") as wheel:
        wheel.writestr(name.format(place=tmp_path), "outside")
    with pytest.raises(UserError, match="contains a path outside the folder"):
        unpack(Package("tiny==1.0", file_hash(file)), "tiny/model", tmp_path / "r")
    assert not [path for path in left_in(tmp_path) if path.endswith("outside.txt")]


def test_a_file_with_another_hash_is_refused_and_not_kept(shelf, tmp_path):
    with pytest.raises(UserError, match=r"package tiny==1\.0: the index offers a file whose hash differs from 0000"):
        fetch(Package("tiny==1.0", "0" * 64), tmp_path / "r")
    assert left_in(tmp_path / "r") == ["packages"]


def test_a_package_that_cannot_be_had_is_one_sentence(shelf, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch(Package("absent==2.0", "0" * 64), tmp_path / "r")
    assert re.fullmatch(r"package absent==2\.0 could not be downloaded \(.+\): check the network.+", str(caught.value))
    assert f"put the file into {tmp_path / 'r/packages/absent-2.0'} yourself" in str(caught.value)
    assert left_in(tmp_path / "r") == ["packages"]


def test_a_file_that_was_put_there_is_checked(tiny, tmp_path):
    folder = tmp_path / "r/packages/tiny-1.0"
    folder.mkdir(parents=True)
    (folder / "tiny-1.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"is not the pinned file .+: delete {folder} and run again"):
        fetch(tiny, tmp_path / "r")


def test_a_missing_folder_is_named_with_those_that_are_there(tiny, tmp_path):
    with pytest.raises(UserError, match=r"has no folder 'tiny/modle'; its folders with a config\.json are: tiny/model"):
        unpack(tiny, "tiny/modle", tmp_path / "r")
    assert "models/tiny-1.0/tiny/modle" not in left_in(tmp_path / "r")


@pytest.mark.parametrize("inside", ["", "/", "../tiny", "tiny/../.."])
def test_a_folder_outside_the_package_is_refused(tiny, tmp_path, inside):
    with pytest.raises(UserError, match="not a folder inside a package"):
        unpack(tiny, inside, tmp_path / "r")


@pytest.mark.parametrize(
    "requirement", ["tiny", "tiny>=1", "tiny==1.0 --index-url=x", "-r x==1", "tiny==1.0\nother==1"]
)
def test_only_exact_versions_are_packages(requirement):
    with pytest.raises(UserError, match="write it as NAME==VERSION"):
        Package(requirement, "0" * 64)


def test_many_builders_build_once(tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "half").touch()
        time.sleep(0.2)
        (folder / "whole").touch()

    def ask(_):
        folder = build_once(tmp_path / "x/y", build)
        return sorted(path.name for path in folder.iterdir())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [["half", "whole"]] * 4
    assert len(built) == 1


def test_a_builder_that_fails_leaves_what_was_there(tmp_path):
    folder = build_once(tmp_path / "x", lambda target: (target / "old").touch())

    def fail(target):
        (target / "new").touch()
        raise UserError("no")

    with pytest.raises(UserError):
        build_once(folder, fail, lambda found: (found / "new").exists())
    assert left_in(tmp_path) == ["x", "x/old"]
