"""Slots have one owner at a time, and a new one has nothing to do with what an old one left behind."""

import os
import signal
import subprocess
import sys

import pytest
from bloomgate import BloomgateError, DeviceTimeout, Parameters, Reason, VersionMismatch, open_device
from bloomgate.backends.shm import ShmDevice
from bloomgate.shm.layout import SLOT_CONTROL
from bloomgate.shm.segment import path_of

from tests.shm.served import PATIENCE, ROOT, new_name, removed, serving


@pytest.fixture(params=["without a server", "served"])
def one_slot(request: pytest.FixtureRequest):
    """The URL of a segment with one slot."""
    if request.param == "served":
        with serving("soft:?slots=1") as name:
            yield f"shm:{name}"
    else:
        with removed(new_name()) as name:
            ShmDevice(name, expected=Parameters(slots=1)).close()
            yield f"shm:{name}"


def in_a_process(url: str, code: str) -> subprocess.Popen:
    """Runs ``code`` with ``device`` open; it goes on with a line on standard input."""
    program = f"import os, signal, sys, bloomgate\ndevice = bloomgate.open_device({url!r})\n{code}\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "host")}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_a_slot_has_one_owner(one_slot: str) -> None:
    with open_device(one_slot) as device:
        device.publish(device.commit(snapshot=0, writes=[1]).timestamp)
        with pytest.raises(BloomgateError, match=r"^all 1 slots of the segment \S+ are in use"):
            open_device(one_slot)
        with pytest.raises(BloomgateError, match="are in use"):
            device.queue_pair()
    with open_device(one_slot) as device:
        assert device.published == 1


def test_two_processes_fight_for_a_slot(one_slot: str) -> None:
    """Again and again; whoever has it commits and publishes once, and all of that counts."""
    rounds = 40
    code = f"""
device.close()
for number in range({rounds}):
    while True:
        try:
            device = bloomgate.open_device({one_slot!r})
            break
        except bloomgate.BloomgateError as error:
            assert "are in use" in str(error), error
    while True:
        verdict = device.commit(snapshot=device.published, reads=[1], writes=[1])
        if verdict.committed:
            break
    if number % 2:
        device.publish(verdict.timestamp)
    device.close()  # else the next owner publishes it
print("done", flush=True)
"""
    first = in_a_process(one_slot, "print('open', flush=True); sys.stdin.readline()\n" + code)
    assert said(first) == "open"
    first.stdin.write("\n")
    first.stdin.flush()
    second = None
    while second is None or second.poll() is not None:  # until it found the slot free
        second = in_a_process(one_slot, code)
        if said(second) == "done":
            break
    outputs = [first.communicate(timeout=PATIENCE)[0], second.communicate(timeout=PATIENCE)[0]]
    assert first.returncode == second.returncode == 0, outputs
    with open_device(one_slot) as device:
        assert device.last_timestamp() == device.published == 2 * rounds


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_a_new_owner_begins_where_all_is_decided_and_published(one_slot: str, end: str) -> None:
    code = """
for number in range(5):
    device.commit(snapshot=0, writes=[number])
for number in range(3):
    device.queue.submit(snapshot=0, writes=[number])
print("submitted", flush=True)
"""
    code += "os.kill(os.getpid(), signal.SIGKILL)" if end == "killed" else "device.close()"
    process = in_a_process(one_slot, code)
    assert said(process) == "submitted"
    process.communicate(timeout=PATIENCE)
    with open_device(one_slot) as device:
        # Submissions that nobody had decided were, or the server did; all timestamps are published.
        assert device.last_timestamp() == device.published == 8
        assert device.commit(snapshot=8, reads=[1], writes=[1]).timestamp == 9


def test_a_doorbell_of_an_earlier_owner_is_refused(one_slot: str) -> None:
    with open_device(one_slot) as device:
        generation = device.segment.read(SLOT_CONTROL["generation"], base=device.segment.layout.slot_control(0))
        device.publish(device.commit(snapshot=0, writes=[1]).timestamp)
    with open_device(one_slot) as device:
        control = device.segment.layout.slot_control(0)
        assert device.segment.read(SLOT_CONTROL["generation"], base=control) == generation + 1
        before = device.stats()["errors"]
        for word in ("completion_head", "submission_tail"):
            # All four bytes at once: a server is looking.
            with memoryview(device.segment.map).cast("I") as words:
                words[(control + SLOT_CONTROL[word].offset) // 4] = generation << 16 | 3
        # Whoever decides next looks at the doorbells.
        if device.segment.has_server:
            device.raise_floor()
        else:
            device.port.patiently(lambda ns: device.port.module.lib.bg_segment_drain(device.handle, 0, ns))
        assert device.stats()["errors"] == before + 2
        assert device.segment.read(SLOT_CONTROL["submission_head"], base=control) == 0
        assert device.commit(snapshot=1, writes=[1]).timestamp == 2


def test_a_generation_that_has_come_round(one_slot: str) -> None:
    """After 65535 owners the first doorbell of one can be what another one left there."""
    for _ in range(3):
        with open_device(one_slot) as device:
            control = device.segment.layout.slot_control(0)
            generation = device.segment.read(SLOT_CONTROL["generation"], base=control)
            last = device.last_timestamp()
            verdict = device.commit(snapshot=last, writes=[1])
            assert verdict.timestamp == last + 1
            device.publish(verdict.timestamp)
            # As if all the others had been here, and had submitted nothing.
            device.segment.write(SLOT_CONTROL["generation"], (generation - 2) % 65535 + 1, base=control)


def test_a_holder_of_the_mutex_that_does_not_go_on_is_named() -> None:
    """Without a server, who is stopped while it decides stops the others; they say which process it is."""
    code = """
memory = device.port._memory
libc = ctypes.CDLL(None)
offset = device.segment.layout.device
mutex = ctypes.c_void_p(int(device.port.module.ffi.cast("uintptr_t", memory)) + offset)
assert libc.pthread_mutex_lock(mutex) == 0
device.segment.write(HEADER["decider_pid"], os.getpid())
print("locked", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
libc.pthread_mutex_unlock(mutex)
sys.stdin.readline()
"""
    with removed(new_name()) as name, ShmDevice(name, patience=0.3) as device:
        process = in_a_process(f"shm:{name}", "import ctypes\nfrom bloomgate.shm.layout import HEADER\n" + code)
        assert said(process) == "locked"
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        why = f"process {process.pid} holds its mutex and is stopped; continue or end that process"
        with pytest.raises(DeviceTimeout, match=why):
            device.commit(snapshot=0, writes=[1])
        process.send_signal(signal.SIGCONT)
        process.communicate("\n", timeout=PATIENCE)
        # What was submitted then is decided, and published as an empty commit, since commit() has raised.
        assert device.commit(snapshot=0, writes=[1]).timestamp == 2
        assert device.published == 1


def test_the_next_one_goes_on_after_a_dead_holder() -> None:
    code = """
libc = ctypes.CDLL(None)
memory = int(device.port.module.ffi.cast("uintptr_t", device.port._memory))
assert libc.pthread_mutex_lock(ctypes.c_void_p(memory + device.segment.layout.device)) == 0
os.kill(os.getpid(), signal.SIGKILL)
"""
    with removed(new_name()) as name, ShmDevice(name) as device:
        for timestamp in range(1, 4):
            in_a_process(f"shm:{name}", "import ctypes\n" + code).communicate(timeout=PATIENCE)
            assert device.commit(snapshot=timestamp - 1, reads=[1], writes=[1]).timestamp == timestamp
            if timestamp > 1:
                # The floor is where the last timestamp was, which makes the filter irrelevant.
                assert device.commit(snapshot=timestamp - 2, reads=[77]).reason is Reason.CONFLICT


def test_another_geometry_is_refused() -> None:
    with removed(new_name()) as name, open_device(f"shm:{name}?K=2"):
        with pytest.raises(VersionMismatch, match=rf"^the segment {name} has Parameters\(K=2"):
            open_device(f"shm:{name}?K=3")
        with open_device(f"shm:{name}") as device:
            assert device.parameters.K == 2


def test_a_file_that_is_no_segment() -> None:
    with removed(new_name()) as name:
        with open(path_of(name), "wb") as file:
            file.write(b"something else" * 1000)
        with pytest.raises(VersionMismatch, match="no segment of bloomgate; remove the file$"):
            open_device(f"shm:{name}")


@pytest.mark.parametrize("name", ["a/b", ".hidden", "x" * 65, "a b"])
def test_unfit_names(name: str) -> None:
    with pytest.raises(BloomgateError, match="^the name of a segment must be 1 to 64 letters"):
        open_device(f"shm:{name}")


def test_without_its_server_a_client_says_so() -> None:
    with serving("soft:") as name:
        device = ShmDevice(name, patience=0.3)
        assert device.commit(snapshot=0, writes=[1]).timestamp == 1
    with pytest.raises(DeviceTimeout, match=rf"no server runs; start one: bloomgate serve --name {name}$"):
        device.commit(snapshot=0, writes=[1])
    device.close()
