"""The contract of queue pairs, for a process that tests cannot run in: ``queue_pairs.py URL SEED``, a line a test."""

import inspect
import sys

from bloomgate import open_device

from tests.queue_pair_contract import QueuePairContract


def main() -> None:
    url, seed = sys.argv[1], int(sys.argv[2])
    contract = QueuePairContract()
    contract.long_reads = 1 << 12
    for name, test in inspect.getmembers(contract, inspect.ismethod):
        if name.startswith("test_"):
            with open_device(url) as device:
                test(device, *([seed] if "seed" in inspect.signature(test).parameters else []))
                assert device.error_log() == [], device.error_log()
            print(name, flush=True)


main()
