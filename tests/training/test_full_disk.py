"""A full disk at any file of a run: a clear error, no partial files, and the same result once there is space."""

import resource
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from test_run import settings

from helpers.data import write_glue
from neuroprune.cli import main
from neuroprune.results.records import read_record


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return write_glue(tmp_path_factory.mktemp("data"), "sst2", train=60, evaluated=24)


@pytest.fixture(scope="module")
def undisturbed(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(data_root, folder, 1000.0) == 0
    return read_record(folder / "run.json").result


def train(data_root, folder, minutes=0.0):
    """Train a run with a checkpoint after every step."""
    words = ["train", "--settings", settings().model_dump_json(), "--data-root", str(data_root)]
    return main([*words, "--output", str(folder / "run.json"), "--checkpoint-minutes", str(minutes)])


def mount(*words):
    """Call mount or umount; return whether it worked."""
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small disk, or changes its size."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or not mount("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)):
        pytest.skip("mounting a tmpfs is not permitted here; the tests with a limit on files do run")

    def resized(kilobytes):
        assert mount("mount", "-o", f"remount,size={kilobytes}k", str(place))
        return place

    yield resized
    mount("umount", str(place))


@contextmanager
def files_up_to(size):
    """Limit the size of files that this process writes."""
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


def check_refused(code, capsys, folder):
    """Check that the run ended with a clear error and that remaining files are complete."""
    err = capsys.readouterr().err
    assert code == 1 and "run the command again." in err and "Traceback" not in err, err
    assert not (folder / "run.json").exists() and not (folder / "model").exists()


def check_same(data_root, folder, undisturbed):
    """Check that, with free space, the run ends with the undisturbed result and no temporary files."""
    assert train(data_root, folder, 1000.0) == 0
    result = read_record(folder / "run.json").result
    assert (result.files, result.metrics) == (undisturbed.files, undisturbed.metrics)
    assert {path.name for path in folder.rglob(".*")} <= {".lock"}


@pytest.mark.parametrize("kilobytes", [12, 60, 300, 640])
def test_a_full_disk_ends_a_run_with_a_sentence(disk, data_root, undisturbed, capsys, kilobytes):
    folder = disk(kilobytes) / "run"
    check_refused(train(data_root, folder), capsys, folder)
    disk(8000)
    check_same(data_root, folder, undisturbed)


@pytest.mark.parametrize("size", [1_000, 20_000, 60_000, 140_000])
def test_a_file_that_may_not_grow_ends_a_run_with_a_sentence(data_root, undisturbed, capsys, tmp_path, size):
    folder = tmp_path / "run"
    with files_up_to(size):
        code = train(data_root, folder)
    check_refused(code, capsys, folder)
    check_same(data_root, folder, undisturbed)
