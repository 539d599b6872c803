"""uio:, the unmodified driver through the shim: against the model, as another user, and where something is missing."""

import json
import os
import subprocess
import sys

import bloomgate
import pytest
from bloomgate.backends.uio import CONTROL_NODE, IDENTITY_FILE, identity, slot_node
from bloomgate.libbloomgate import library
from bloomgate.registers import VERSION, slot_page_offset

from tests.board.conftest import GEOMETRY
from tests.board.emulation import NATIVE, ROOT, SECONDS, make_tree, node

#: The user who owns one slot, and the groups; any numbers that nobody has here.
USER, CONTROL_GROUP, FIRST_SLOT_GROUP = 61234, 61300, 61301


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    NATIVE.require()
    return NATIVE.shim(tmp_path_factory.mktemp("shim") / "shim.so")


@pytest.fixture
def python(board, shim):
    """Runs Python with the shim; ``url`` and ``root`` are in the program's arguments."""
    library()  # compiled here, not under the shim

    def run(program, *arguments, slot=None):
        url = f"uio:root={board.root}" if slot is None else f"uio:slot={slot},root={board.root}"
        command = NATIVE.command(shim, sys.executable, *program, *map(str, arguments))
        return board.run(*[word.replace("URL", url) for word in command])

    return run


def leave_identity(board):
    """As `bloomgate load` does."""
    path = board.root / IDENTITY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(identity(VERSION, GEOMETRY))


def test_selftest(board, python):
    """The driver against the model: every verdict, every counter, resets, parity errors, rollovers."""
    result = python(["-m", "bloomgate", "selftest", "--rounds", "150", "--device", "URL"])
    assert result.returncode == 0, result
    assert "exactly as by the model" in result.stdout
    assert board.server.refused == 0


def test_info(python):
    result = python(
        ["-m", "bloomgate", "info", "--json", "--device", "URL?K=2&D=64&timestamp_bits=6&key_bits=10&slots=5"]
    )
    assert result.returncode == 0, result
    document = json.loads(result.stdout)
    assert document["backend"] == "uio"
    assert document["parameters"]["slots"] == GEOMETRY.slots
    wrong = python(["-m", "bloomgate", "info", "--device", "URL?K=4"])
    assert wrong.returncode == 2
    assert "the gateware was built as Parameters(K=2" in wrong.stderr


INTERRUPT = """
import sys, bloomgate
from bloomgate.registers import CONTROL_PAGE
with bloomgate.open_device(sys.argv[1]) as device:
    enable = CONTROL_PAGE.register("INTERRUPT_ENABLE")
    device.bus.write(enable.offset, [enable["VERDICT"].mask])
    print(device.bus.wait_interrupt(0))
    device.commit(snapshot=0, writes=[1])
    print(device.bus.wait_interrupt(60), device.bus.wait_interrupt(60))
    device.bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING").offset, [enable["VERDICT"].mask])
    device.bus.wait_interrupt(0)
    print(device.bus.wait_interrupt(0.1))
"""


def test_interrupt(python):
    result = python(["-c", INTERRUPT, "URL"])
    assert result.stdout.split() == ["False", "True", "True", "False"], result


def test_a_parked_slot_sleeps_until_the_interrupt(python):
    result = python([str(ROOT / "tests" / "board" / "programs" / "parked.py"), "URL"])
    assert result.stdout.split() == 2 * ["True", "IRREVOCABLE", "True", "True", "False"], result


THREADS = """
import sys, threading, bloomgate
from bloomgate import TVar, atomic, use_device
with bloomgate.open_device(sys.argv[1]) as device:
    use_device(device)
    counter = TVar(0)
    @atomic
    def add():
        counter.value += 1
    threads = [threading.Thread(target=lambda: [add() for _ in range(25)]) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(counter.value)
"""


def test_transactions(python):
    """The STM on it: no increment is lost."""
    result = python(["-c", THREADS, "URL"])
    assert result.stdout == "75\n", result


SLOT = """
import sys, bloomgate
with bloomgate.open_device(sys.argv[1]) as device:
    print(device.info().description)
    first = device.commit(snapshot=device.published, reads=[1], writes=[1, 2])
    print(first.committed, first.timestamp, device.last_timestamp(), device.published)
    stale = device.commit(snapshot=0, reads=[3, 2])
    print(stale.reason.name, stale.conflict_key)
    device.publish(first.timestamp)
    print(device.published, device.commit(snapshot=device.published, reads=[2]))
    for refused in (device.reset, device.raise_floor, lambda: device.inject_parity_error(0, 0), device.open_slot,
                    device.conflicts, device.revoke_token, device.tick):
        try:
            refused()
        except bloomgate.DeviceUnavailable as error:
            print(error)
    try:
        device.commit(snapshot=0, reads=[1] * 513)
    except bloomgate.RequestTooLarge:
        print("too large", device.stats()["commits"], device.stats()["aborts_conflict"])
with bloomgate.open_device(sys.argv[1]) as device:
    print(device.published)
"""


def test_one_slot(board, python):
    leave_identity(board)
    result = python(["-c", SLOT, "URL"], slot=3)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "slot 3 of the gateware in the FPGA, through Linux UIO nodes",
        "True 1 1 0",
        "CONFLICT 2",
        "1 Verdict(committed=True, timestamp=None, reason=None, conflict_key=None)",
        *(
            f"{name}() is for the owner of page 0; this device is slot 3 alone"
            for name in ("reset", "raise_floor", "inject_parity_error")
        ),
        *(
            f"{name}() is for the owner of page 0; this device is slot 3 alone; open the whole device as uio:, for one"
            " process, or as shm: with bloomgate serve, for several"
            for name in ("open_slot", "conflicts", "revoke_token", "tick")
        ),
        "too large 2 1",
        "1",
    ]
    assert board.server.lowest >= slot_page_offset(3), "another page was touched"


def test_one_slot_takes_up_where_the_last_owner_left(board, python):
    leave_identity(board)
    commit = (
        "import sys, bloomgate; device = bloomgate.open_device(sys.argv[1]);"
        "print(device.published, device.commit(snapshot=device.published, writes=[7]).timestamp)"
    )
    assert [python(["-c", commit, "URL"], slot=1).stdout for _ in range(2)] == ["0 1\n", "1 2\n"]


EPOCHS = """
import sys, bloomgate
from bloomgate.libbloomgate import library
ffi, lib = library()
root, *steps = sys.argv[1:]
control, geometry = ffi.new("struct bloomgate_window *"), ffi.new("struct bloomgate_geometry *")
assert lib.bloomgate_uio_open(control, root.encode(), b"bloomgate-control") == lib.bloomgate_identify(control, geometry)

def newest():
    timestamp = ffi.new("uint64_t *")
    assert lib.bloomgate_last_timestamp(control, geometry, timestamp) == lib.BLOOMGATE_OK
    return timestamp[0]

def commit_to_the_end(device):
    while device.published % 64:
        device.publish(device.commit(snapshot=device.published, writes=[1]).timestamp)

def attempt(device, snapshot, **sets):
    try:
        verdict = device.commit(snapshot=snapshot, **sets)
        return verdict.timestamp if verdict.committed else verdict.reason.name
    except bloomgate.DeviceUnavailable as error:
        return str(error)

for step in steps:
    with bloomgate.open_device(f"uio:slot=3,root={root}") as device:
        begin = device.published
        print(begin == newest(), end=" ")
        device.publish(attempt(device, begin, writes=[1]))
        # An epoch ends by its last count, of this slot or of another, or by a reset from page 0.
        if step == "own":
            commit_to_the_end(device)
        elif step == "other":
            with bloomgate.open_device(f"uio:slot=1,root={root}") as other:
                commit_to_the_end(other)
        else:
            assert lib.bloomgate_reset(control, int(step)) == lib.BLOOMGATE_OK
        print(newest() // 64, device.published - begin)
        for sets in ({"reads": [1]}, {"writes": [1]}, {}):
            print(attempt(device, begin + 1, **sets), "/", attempt(device, device.published, **sets))
"""


def test_one_slot_and_the_end_of_an_epoch(board, python):
    """Nothing is decided on a snapshot of an epoch that is over, and the next owner begins in the new one."""
    leave_identity(board)
    last = 2**32 - 1
    result = python(["-c", EPOCHS], board.root, "own", 0, "other", 9, last, 0)
    assert result.stderr == ""

    def refused(epoch):
        said = (
            f"nothing was committed: epoch {epoch} is over, by a reset or by the commit of another slot; when all of it"
            " is written back, open slot 3 again"
        )
        return [f"{said} / {said}"] * 3

    assert result.stdout.splitlines() == [
        # It goes on by itself: nobody else has committed.
        *("True 1 64", "ROLLOVER / None", "ROLLOVER / 65", "ROLLOVER / None"),
        *("True 2 1", *refused(1)),
        *("True 3 1", *refused(2)),
        *("True 9 1", *refused(3)),
        *(f"True {last} 1", *refused(9)),
        # There is no epoch after it.
        *(f"True {last} 1", *["ROLLOVER / ROLLOVER"] * 3),
    ]
    assert board.server.refused == 0


OWN_DATA = """
import sys, bloomgate
url = f"uio:slot={{}},data=own,root={sys.argv[1]}"
with bloomgate.open_device(url.format(1)) as device, bloomgate.open_device(url.format(3)) as other:
    def commit(of, snapshot=None, **sets):
        verdict = of.commit(snapshot=of.published if snapshot is None else snapshot, **sets)
        return verdict.timestamp if verdict.committed else verdict.reason.name

    begin = device.published
    mine = [commit(device, writes=[1])]
    others = [commit(other, writes=[2]) for _ in range(3)]
    mine += [commit(device, writes=[1]) for _ in range(2)]
    print(*(timestamp - begin for timestamp in mine + others))
    # Past what is another's, and not past its own.
    device.publish(mine[2])
    print(device.published - begin)
    device.publish(mine[0])
    print(device.published - begin)
    device.publish(mine[1])
    print(device.published - begin, device.last_timestamp() - begin, other.published - begin)
    # A snapshot that is old only for the commits of others does not stay so. A key of both is an abort at most.
    others.append(commit(other, writes=[2]))
    print(commit(device, reads=[2]), commit(device, reads=[2]), device.published - begin)
    # The other one ends the epoch, twice.
    for timestamp in others:
        other.publish(timestamp)
    while other.published < begin + 130:
        other.publish(commit(other, writes=[2]))
    print(commit(device, reads=[1]), device.published == other.published, commit(device, reads=[1]))
    # Its own commit is the last of an epoch; it is published before or after others have committed in the next.
    for early in (False, True):
        while other.published % 64 != 62:
            other.publish(commit(other, writes=[2]))
        commit(device, snapshot=0)
        last = commit(device, writes=[1])
        print(last % 64, end=" ")
        if early:
            device.publish(last)
        print(commit(other, writes=[2]), commit(other, writes=[2]) % 64, end=" ")
        print(commit(device, reads=[1], snapshot=last), device.published - last, end=" ")
        device.publish(last)
        print(device.published - last, commit(device, writes=[1]) % 64)
        device.publish(device.last_timestamp())
        other.publish(other.last_timestamp())
"""


def test_a_slot_with_data_of_its_own(board, python):
    leave_identity(board)
    result = python(["-c", OWN_DATA], board.root)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "1 5 6 2 3 4",
        "0",
        "4",
        "6 6 1",
        "CONFLICT None 7",
        "ROLLOVER True None",
        "63 ROLLOVER 1 ROLLOVER -1 2 2",
        "63 ROLLOVER 1 ROLLOVER 2 2 2",
    ]


#: Two threads increment, in each of several programs.
COUNTERS = """
import sys, threading, bloomgate
from bloomgate import TVar, atomic, use_device
with bloomgate.open_device(sys.argv[1]) as device:
    use_device(device)
    counter = TVar(0)
    @atomic
    def add():
        counter.value += 1
    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=lambda: [add() for _ in range(100)]) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(counter.value)
"""


def test_programs_with_data_of_their_own_run_at_the_same_time(board, shim):
    """Through several epochs. Without data=own they would wait for each other's commits."""
    library()
    leave_identity(board)
    programs = [
        subprocess.Popen(
            NATIVE.command(shim, sys.executable, "-c", COUNTERS, f"uio:slot={slot},data=own,root={board.root}"),
            env=board.environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for slot in (1, 3)
    ]
    try:
        assert [program.stdout.readline() for program in programs] == ["ready\n"] * 2
        for program in programs:
            program.stdin.write("go\n")
            program.stdin.flush()
        for program in programs:
            counted = program.communicate(timeout=SECONDS)[0].strip()
            assert (counted, program.returncode) == ("200", 0)
    finally:
        for program in programs:
            program.kill()
            program.communicate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not there, so nothing says what the device is"),
        ("{", "cannot be used"),
        ('{"version": [0, 4, 0], "parameters": {"K": 99}}', "K must be between 1 and 8, not 99"),
        ('{"version": [9, 1, 0], "parameters": {}}', r"speaks version 9\.1\.0"),
        ('{"version": [0, 2, 9], "parameters": {}}', r"a slot alone needs 0\.3\.0 or newer"),
        ('{"version": [0, 4, 0], "parameters": {"slots": 2}}', "there is no slot 3: the device has 2"),
    ],
)
def test_one_slot_of_what(tmp_path, text, message):
    root = make_tree(tmp_path / "root", 5)
    if text is not None:
        path = root / IDENTITY_FILE
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(bloomgate.BloomgateError, match=message):
        bloomgate.open_device(f"uio:slot=3,root={root}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("slot=x", "slot must be a number, not 'x'"),
        ("slot", "can have slot=NUMBER, data=own and root=FOLDER, not 'slot'"),
        ("slot=1,data=all", "data must be own, of a device with one slot"),
        ("data=own", "data must be own, of a device with one slot"),
        ("slot=1,slot=2", "not 'slot=2'"),
        ("page=1", "not 'page=1'"),
        ("slot=1?initial_epoch=2", "initial_epoch is for the owner of page 0"),
    ],
)
def test_a_wrong_url(path, message):
    with pytest.raises(bloomgate.DeviceURLError, match=message):
        bloomgate.open_device(f"uio:{path}")


# Nothing is mapped unless everything is right, so that these need no shim.


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "root", GEOMETRY.slots)


def refused(root):
    with pytest.raises(bloomgate.DeviceUnavailable) as caught:
        bloomgate.open_device(f"uio:root={root}")
    return str(caught.value)


def test_without_nodes(tmp_path):
    assert refused(tmp_path).startswith("the node bloomgate-control: there is no node for that page")


@pytest.mark.parametrize("state", ["unknown", "write error", "power off"])
def test_a_fabric_that_is_not_configured_is_not_touched(tmp_path, state):
    root = make_tree(tmp_path / "root", GEOMETRY.slots, state=state)
    assert "the fabric is not known to be configured" in refused(root)


def test_a_fabric_of_which_nothing_is_known_is_not_touched(tree):
    (tree / "sys/class/fpga_manager/fpga0/state").unlink()
    assert "the fabric is not known to be configured" in refused(tree)


@pytest.mark.parametrize(("done", "goes_on"), [("1", True), ("0", False)])
def test_the_state_on_an_old_xilinx_kernel(tree, done, goes_on):
    (tree / "sys/class/fpga_manager/fpga0/state").unlink()
    old = tree / "sys/class/xdevcfg/xdevcfg/device"
    old.mkdir(parents=True)
    (old / "prog_done").write_text(f"{done}\n")
    node(tree, CONTROL_NODE).unlink()  # what comes after the check
    assert ("No such file" in refused(tree)) == goes_on


def test_a_node_at_another_address(tree):
    folder = tree / "sys/class/uio" / node(tree, CONTROL_NODE).name
    (folder / "maps/map0/addr").write_text("0x43c01000\n")
    assert "there is no node for that page at its address" in refused(tree)


def test_a_page_belongs_to_one_process(tree):
    with subprocess.Popen(
        ["flock", "--exclusive", str(node(tree, CONTROL_NODE)), "cat"], stdin=subprocess.PIPE
    ) as other:
        assert wait_locked(node(tree, CONTROL_NODE))
        assert refused(tree) == "the node bloomgate-control: another process uses that page"
        other.communicate(timeout=60)


FORK = """
import os, subprocess, sys
import bloomgate
device = bloomgate.open_device(sys.argv[1])
print(device.commit(snapshot=device.published, writes=[1]).committed)
there, come = os.pipe()
go, went = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(went)
    os.write(come, b"x")
    os.read(go, 1)
    try:
        device.commit(snapshot=0, writes=[1])
    except bloomgate.DeviceClosed as error:
        os._exit(7 if "before a fork" in str(error) else 1)
    os._exit(1)
os.read(there, 1)
# Only the parent has it, and when the parent lets it go, nobody has, although the child lives.
for _ in range(2):
    print(subprocess.run(["flock", "--nonblock", sys.argv[2], "true"]).returncode)
    device.close()
os.close(went)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("slot", [None, 1], ids=["device", "slot"])
def test_a_forked_child_owns_no_page(board, python, slot):
    leave_identity(board)
    page = node(board.root, CONTROL_NODE if slot is None else slot_node(slot))
    result = python(["-c", FORK, "URL"], page, slot=slot)
    assert result.stdout.split() == ["True", "1", "0", "7"], result


def wait_locked(path):
    """Until the other process has the lock; it holds it for as long as its input is open."""
    for _ in range(2000):
        if subprocess.run(["flock", "--nonblock", str(path), "true"], check=False, timeout=60).returncode == 1:
            return True
    return False


MAPPED = """
import os, sys, bloomgate
url, folder, times = sys.argv[1:]

def held():
    # Mappings and open files of the emulated board's nodes and memory.
    with open("/proc/self/maps") as maps:
        mappings = sum(folder in line for line in maps)
    files = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            files.append(os.readlink(entry.path))
        except FileNotFoundError:
            pass  # of the listing itself
    return mappings, sum(name.startswith(folder) for name in files)

for _ in range(int(times)):
    with bloomgate.open_device(url) as device:
        device.publish(device.commit(snapshot=device.published, writes=[1]).timestamp)
        if "slot" not in url:
            with device.queue_pair() as queue:
                device.publish(queue.commit(snapshot=device.published, writes=[1]).timestamp)
                print(*held(), end=" ")
        print(*held(), end=" ")
    print(*held())
try:
    bloomgate.open_device(url + "?K=4")
except bloomgate.VersionMismatch:
    print(*held())
"""


@pytest.mark.parametrize("slot", [None, 1], ids=["device", "slot"])
def test_nothing_stays_mapped(board, python, slot):
    """Also when the device that was found is refused."""
    leave_identity(board)
    result = python(["-c", MAPPED, "URL"], board.root.parent, times := 20, slot=slot)
    pages = 1 + GEOMETRY.slots if slot is None else 1
    # A queue has a mapping and a file of its own.
    queue = f"{pages + 1} {pages + 1} " if slot is None else ""
    assert result.stdout.splitlines() == [f"{queue}{pages} {pages} 0 0"] * times + ["0 0"], result


OWNER = """
import os, sys
import bloomgate
from bloomgate.backends.uio import UioBus, UioSlotDevice, slot_node
from bloomgate.libbloomgate import library
library()  # another user may not be able to read the source tree
root, user, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.setgroups([group])
os.setgid(user)
os.setuid(user)
with UioSlotDevice(3, root=root) as device:
    print(device.commit(snapshot=0, writes=[1]).timestamp)
for slot in range(5):
    if slot != 3:
        try:
            UioSlotDevice(slot, root=root)
        except bloomgate.DeviceUnavailable as error:
            print(error)
try:
    UioBus(root=root)
except bloomgate.DeviceUnavailable as error:
    print(error)
for entry in sorted(os.scandir(root + "/dev"), key=lambda entry: entry.name):
    try:
        os.close(os.open(entry.path, os.O_RDWR))
        print("opened", entry.name)
    except PermissionError:
        pass
"""


def test_the_owner_of_a_slot_can_open_no_other_page(board, python):
    """An ordinary user in the group of slot 3: real files, real permissions, another user id."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    leave_identity(board)
    os.chmod(board.root.parent, 0o755)
    os.chmod(board.server.path, 0o666)
    os.chown(node(board.root, CONTROL_NODE), 0, CONTROL_GROUP)
    for slot in range(GEOMETRY.slots):
        os.chown(node(board.root, slot_node(slot)), 0, FIRST_SLOT_GROUP + slot)
    result = python(["-c", OWNER], board.root, USER, FIRST_SLOT_GROUP + 3)
    assert result.stderr == ""
    mine = node(board.root, slot_node(3)).name
    others = [slot_node(slot) for slot in range(GEOMETRY.slots) if slot != 3] + [CONTROL_NODE]
    assert result.stdout.splitlines() == [
        "1",
        *(f"the node {name}: Permission denied; its users are the members of the group {name}" for name in others),
        f"opened {mine}",
    ]
