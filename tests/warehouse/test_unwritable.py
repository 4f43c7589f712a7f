"""A folder that is full or not writable: the run fails with one line, and nothing is lost."""

from __future__ import annotations

import ctypes
import resource
import subprocess

import pytest

from tests.worlds import World, nothing_is_due, run_in_process


@pytest.mark.usefixtures("synced")
@pytest.mark.parametrize("moments", [[1, 2], pytest.param([0, 1, 2, 3], marks=pytest.mark.long)])
def test_a_disk_that_is_full_at_any_moment(world: World, moments: list[int]) -> None:
    """A limit on the file size stands for a full disk. It stops the writing of a package, the
    write-ahead log, a checkpoint or the published copy."""
    published = world.settings.published.stat().st_size
    full = [(30_000, 1), (300_000, 2), (published - 300_000, 1), (published + 300_000, 1)]
    for limit, times in (full[moment] for moment in moments):
        before = world.stored()
        world.move(days=3)
        for _ in range(times):  # the second run finds what the first could not load
            told = limited(world, limit)
            assert told.returncode == 1, limit
            lines = [line for line in told.stderr.splitlines() if "verify-sync:" in line]
            assert len(lines) == 1, told.stderr
            assert "free some space" in lines[0]
            assert "Traceback" not in told.stderr
            assert world.stored() == before
        world.sync()
        assert world.stored().keys() == before.keys() | world.truth().keys()
        assert nothing_is_due(world)


def limited(world: World, limit: int) -> subprocess.CompletedProcess[str]:
    moment = [world.now.isoformat(), "", "0", "0", "0"]
    prepare = (__name__, limit_files.__name__, limit)
    return run_in_process(world, "tests.crash", *moment, "sync", prepare=prepare)


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.usefixtures("synced")
def test_a_folder_that_cannot_be_written(world: World) -> None:
    before = world.stored()
    world.move(hours=5)
    folder = world.settings.directory
    folder.chmod(0o555)
    try:
        told = run_in_process(
            world, "tests.crash", world.now.isoformat(), "", "0", "0", "0", "sync",
            prepare=(__name__, no_more_than_others.__name__, 0),
        )  # fmt: skip
    finally:
        folder.chmod(0o755)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert str(folder) in told.stderr
    assert world.stored() == before
    world.sync()
    assert len(world.stored()) > len(before)


def no_more_than_others(_: int) -> None:
    """Drops root's right to write anywhere. Other users do not have it."""
    version, dac_override = 0x20080522, 1
    header, sets = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    libc.capget(header, sets)
    for place in (0, 1):  # effective and permitted capabilities
        sets[place] &= ~(1 << dac_override)
    assert libc.capset(header, sets) == 0
