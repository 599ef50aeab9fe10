import os
import subprocess
import sys
import threading
import time

import pytest

from service.records import lock
from service.records.lock import SweepLock, exclusive, lock_holder, request_stop, stop_requested


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)


def test_a_second_lock_is_refused_and_names_the_holder(tmp_path, impatient):
    held = SweepLock(tmp_path)
    assert lock_holder(tmp_path).startswith(f"process {os.getpid()} on ")
    with pytest.raises(ValueError, match=rf"one process at a time, is in use by process {os.getpid()} on "):
        SweepLock(tmp_path)
    held.release()
    assert lock_holder(tmp_path) == ""
    SweepLock(tmp_path).release()


def test_a_folder_that_was_never_locked_has_no_holder(tmp_path):
    assert lock_holder(tmp_path) == ""


def test_a_killed_process_loses_its_lock(tmp_path, impatient):
    code = (
        "import sys, time; from pathlib import Path; from service.records.lock import SweepLock;"
        "lock = SweepLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"):
            SweepLock(tmp_path)
        process.kill()
        process.wait()
    SweepLock(tmp_path).release()


def test_looking_for_the_holder_does_not_keep_others_from_locking(tmp_path):
    SweepLock(tmp_path).release()
    looking = threading.Event()

    def look():
        while not looking.is_set():
            lock_holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(20):
            SweepLock(tmp_path).release()
    finally:
        looking.set()
        thread.join()


def test_a_request_to_stop_ends_with_the_process_that_it_was_for(tmp_path):
    held = SweepLock(tmp_path)
    assert not stop_requested(tmp_path)
    request_stop(tmp_path)
    assert stop_requested(tmp_path)
    held.release()
    SweepLock(tmp_path).release()
    assert not stop_requested(tmp_path)


def test_exclusive_waits_for_the_other_holder(tmp_path):
    order = []

    def second():
        with exclusive(tmp_path / "some.lock"):
            order.append("second")

    with exclusive(tmp_path / "some.lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
