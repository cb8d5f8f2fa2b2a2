"""A process watched from outside."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlload.loader.bench.threads import lost
from mlload.loader.bench.watch import watching

SIZE = 64 << 20
PROGRAM = f"""
import mmap, sys
def wait(): sys.stdout.write("\\n"); sys.stdout.flush(); sys.stdin.readline()
wait()
block = mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); block.write(b"x" * {SIZE}); wait()
block.close(); wait()
data = open(sys.argv[1], "rb"); pages = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ); sum(pages[::4096]); wait()
"""

Child = subprocess.Popen[str]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "file"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        yield it
        it.kill()


def go_on(child: Child) -> None:
    """Let it take its next step, and wait until that is done."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    child.stdout.readline()


def test_peaks_of_each_kind_are_seen(child: Child) -> None:
    assert child.stdout is not None
    child.stdout.readline()
    with watching(child.pid) as watch:
        watch.look(time.monotonic())
        before = watch.samples[-1]
        go_on(child)
        watch.look(time.monotonic())
        go_on(child)
        watch.look(time.monotonic())
        assert watch.samples[-1].anonymous - before.anonymous < SIZE / 8  # given back
        go_on(child)
        watch.look(time.monotonic())
        # While it wrote, the text to write took its bytes a second time.
        assert 0.95 * SIZE < watch.peak.anonymous - before.anonymous < 2.1 * SIZE
        assert watch.peak.mapped - before.mapped == pytest.approx(SIZE, rel=0.05)
        assert watch.highest_resident >= watch.peak.anonymous + before.mapped
        assert watch.processor_seconds() > 0
        assert watch.sample_at(before.at) == before
        assert watch.sample_at(0.0) == watch.samples[0]


def test_a_peak_between_two_looks_is_not_missed(child: Child) -> None:
    assert child.stdout is not None
    child.stdout.readline()
    with watching(child.pid) as watch:
        watch.look(time.monotonic())
        before = watch.samples[-1]
        for _ in range(2):  # memory comes, and has gone again
            go_on(child)
        watch.look(time.monotonic())
        assert watch.samples[-1].anonymous - before.anonymous < SIZE / 8
        assert watch.peak.anonymous - before.anonymous > 0.95 * SIZE


def test_a_process_that_ends_is_no_error(child: Child) -> None:
    with watching(child.pid) as watch:
        watch.look(time.monotonic())
        child.kill()
        child.wait()
        watch.look(time.monotonic())
        assert len(watch.samples) == 1
        assert watch.bytes_from_storage() == 0


BUSY = "import hashlib, threading, time"
SPIN = f"{BUSY}\nwhile True: pass"
WORK = f"""{BUSY}, sys
def work():
    for _ in range(20): hashlib.sha256(bytes(16 << 20)).digest()
    sys.stdout.write("\\n"); sys.stdout.flush(); sys.stdin.readline()
sys.stdin.readline()
thread = threading.Thread(target=work); thread.start(); thread.join()
"""


@pytest.mark.parametrize(
    ("ran", "waited", "cores", "expected"),
    [
        (0.0, 0.0, 2, 0.0),  # asleep
        (1.0, 0.0, 2, 0.0),  # one thread, alone
        (0.4, 0.6, 2, 0.6),  # one thread beside others
        (0.1, 0.2, 2, 0.2),  # the same, asleep for the rest
        (2.0, 0.0, 2, 0.0),  # two threads, alone
        (1.0, 1.0, 2, 0.5),  # two threads that got half of what they wanted
        (2.0, 14.0, 2, 0.0),  # sixteen threads that wait for each other
        (1.0, 15.0, 2, 0.5),  # the same, with one of two cores
    ],
)
def test_what_was_lost_of_a_second(ran: float, waited: float, cores: int, expected: float) -> None:
    assert lost(1.0, ran, waited, cores) == pytest.approx(expected)


def test_time_that_others_had_the_core_is_told_from_work() -> None:
    """On one core beside a process that never rests, half of the time is lost: also to a thread that the first one waits for."""
    core = min(os.sched_getaffinity(0))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SPIN]) as other, subprocess.Popen([sys.executable, "-c", WORK], **pipes) as child:
        for process in (other, child):
            os.sched_setaffinity(process.pid, [core])
        with watching(child.pid) as watch:
            watch.look(begun := time.monotonic(), closely=True)
            working = watch.processor_seconds()
            child.stdin.write("\n")
            child.stdin.flush()
            while not select.select([child.stdout], [], [], 0.01)[0]:
                watch.look(time.monotonic())
            watch.look(ended := time.monotonic(), closely=True)
            worked = watch.processor_seconds() - working
            lost = watch.samples[-1].held_up - watch.samples[0].held_up
        other.kill()
        child.kill()
    assert 0.3 * (ended - begun) < lost < ended - begun - worked + 0.02  # processors are counted in hundredths
