"""Whatever kills a writer, there is no version or a whole one, and the next writer clears up."""

import os
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
