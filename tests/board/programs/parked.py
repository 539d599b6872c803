"""A parked slot that nothing but the interrupt wakes: no other thread, no verdict, no look before its time is over."""

import sys
import time

import bloomgate

SECONDS = 30.0

with bloomgate.open_device(sys.argv[1]) as device:
    bus, holder, other = device.bus, device.open_slot(), device.open_slot()
    holder.begin(device.last_timestamp())
    print(holder.irrevocable(SECONDS).committed)
    holder.guard([5])
    other.begin(device.last_timestamp())
    print(other.commit(writes=[5]).reason.name)
    other.park()
    # Causes from before end a nap at once.
    while True:
        bus.arm(other.number)
        began = time.monotonic()
        bus.nap(other.number, 0.2)
        if time.monotonic() - began >= 0.2:
            break
    print(other.parked)
    holder.cancel()
    # The wake may have come by now; it has not been looked for.
    began = time.monotonic()
    bus.nap(other.number, SECONDS)
    print(time.monotonic() - began < SECONDS, other.parked)
