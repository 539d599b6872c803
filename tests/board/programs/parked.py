"""A parked slot that nothing but the interrupt wakes: no other thread, no verdict, no look before its time is over."""

import sys
import time

import bloomgate

SECONDS = 30.0


def naps(bus, slot, seconds):
    """Whether a nap takes all its time."""
    began = time.monotonic()
    bus.nap(slot, seconds)
    return time.monotonic() - began >= seconds


with bloomgate.open_device(sys.argv[1]) as device:
    bus, holder, other = device.bus, device.open_slot(), device.open_slot()
    # Twice: the first interrupt has left everything as it found it.
    for _ in range(2):
        holder.begin(device.last_timestamp())
        print(holder.irrevocable(SECONDS).committed)
        holder.guard([5])
        other.begin(device.last_timestamp())
        print(other.commit(writes=[5]).reason.name)
        other.park()
        # Causes from before end a nap at once, and then there are no more.
        for _ in range(10):
            bus.arm(other.number)
            if naps(bus, other.number, 0.2):
                break
        else:
            print("there is always something to wake for")
        print(other.parked)
        holder.cancel()
        # The wake may have come by now; it has not been looked for.
        print(not naps(bus, other.number, SECONDS), other.parked)
