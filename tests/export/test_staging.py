"""Whatever kills a writer, there is no version or a whole one, and the next writer clears up."""

import os
import subprocess
import sys
import threading

import pytest

from kerastools.export import _staging
from kerastools.export._staging import appears_at_once, one_writer


def write(root, version, text):
    with one_writer(root), appears_at_once(root, version) as directory:
        (directory / "file").write_text(text)


def names_of(root):
    return sorted(os.listdir(root))


@pytest.mark.parametrize("swap", [True, False], ids=["in one step", "in two"])
def test_replacing_leaves_the_new_version_only(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(_staging, "_exchange", lambda a, b: False)
    write(tmp_path, 1, "old")
    write(tmp_path, 1, "new")
    assert names_of(tmp_path) == ["1"]
    assert (tmp_path / "1" / "file").read_text() == "new"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a system call of Linux")
def test_on_linux_two_names_are_swapped_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert _staging._exchange(tmp_path / "a", tmp_path / "b")
    assert names_of(tmp_path / "a") == ["b"]
    assert not _staging._exchange(tmp_path / "a", tmp_path / "missing")


def test_a_version_put_aside_by_a_killed_writer_comes_back(tmp_path):
    (tmp_path / ".3.replaced-aa").mkdir()
    (tmp_path / ".3.replaced-aa" / "file").write_text("old")
    (tmp_path / ".3.partial-aa").mkdir()
    write(tmp_path, 4, "next")
    assert names_of(tmp_path) == ["3", "4"]
    assert (tmp_path / "3" / "file").read_text() == "old"


def test_an_error_between_the_two_renames_brings_the_old_version_back(tmp_path, monkeypatch):
    write(tmp_path, 1, "old")
    monkeypatch.setattr(_staging, "_exchange", lambda a, b: False)
    rename = _staging.Path.rename

    def fail(self, target):
        if ".partial-" in self.name:
            raise OSError("disk")
        return rename(self, target)

    monkeypatch.setattr(_staging.Path, "rename", fail)
    with pytest.raises(OSError, match="disk"):
        write(tmp_path, 1, "new")
    assert names_of(tmp_path) == ["1"]
    assert (tmp_path / "1" / "file").read_text() == "old"


def test_writers_wait_for_each_other(tmp_path):
    order = []
    inside = threading.Event()

    def second():
        inside.wait(10)
        write(tmp_path, 2, "second")
        order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with one_writer(tmp_path), appears_at_once(tmp_path, 1):
        inside.set()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert names_of(tmp_path) == ["1", "2"]


def test_a_failed_first_write_leaves_no_directory(tmp_path):
    with pytest.raises(RuntimeError), one_writer(tmp_path / "a" / "b"):
        raise RuntimeError
    assert names_of(tmp_path) == []


_KILLED_AT = """
import importlib.util, os, signal, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("staging", sys.argv[1])
staging = importlib.util.module_from_spec(spec)
spec.loader.exec_module(staging)
left, swap = int(sys.argv[3]), sys.argv[4] == "swap"
if not swap:
    staging._exchange = lambda a, b: False

def count_down(event, arguments):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count_down)
root = Path(sys.argv[2])
with staging.one_writer(root), staging.appears_at_once(root, 1) as directory:
    for name in ("a", "b"):
        (directory / name).write_text("new")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals, and one-step renames")
@pytest.mark.parametrize("replaces", ["nothing", "swap", "rename"])
def test_killed_before_any_step_there_is_no_version_or_a_whole_one(tmp_path, replaces):
    """A process per step: killed before its first access to files, before its second and so on."""
    for step in range(100):
        root = tmp_path / str(step)
        if replaces != "nothing":
            with one_writer(root), appears_at_once(root, 1) as directory:
                for name in ("a", "b"):
                    (directory / name).write_text("old")
        arguments = [_staging.__file__, str(root), str(step), replaces]
        done = subprocess.run([sys.executable, "-I", "-c", _KILLED_AT, *arguments], check=False)
        if (root / "1").exists():
            found = {name: (root / "1" / name).read_text() for name in names_of(root / "1")}
            assert found in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
        else:
            # Without a swap in one step, the next writer brings the old version back.
            assert replaces != "swap"
            write(root, 2, "next")
            assert (root / "1").exists() == (replaces == "rename")
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert step > 5
    assert found == {"a": "new", "b": "new"}
    assert names_of(root) == ["1"]
