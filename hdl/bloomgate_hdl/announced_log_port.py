"""What passes between the slot pages, the LogFollower and the DescriptorFetcher."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import LANES, Parameters

from bloomgate_hdl.memory_port import MAX_BEATS
from bloomgate_hdl.queue_port import KEY_BYTES

__all__ = ["AnnouncedLogSignature", "LogFetchSignature"]


class AnnouncedLogSignature(wiring.Signature):
    """From the pages' side. Strobes are for ``slot``, and come at most one in a clock cycle."""

    def __init__(self, parameters: Parameters):
        super().__init__(
            {
                "slot": Out(parameters.slot_bits),
                #: Strobe: a transaction begins, with an empty log.
                "begin": Out(1),
                #: Strobe: the log has ``tail`` keys.
                "advance": Out(1),
                "tail": Out(range(parameters.aperture_depth + 1)),
                #: Strobe: the transaction wants no more keys.
                "drop": Out(1),
                #: ``slot``, and ``look_slot``, has keys in its log that did not reach its page.
                "behind": In(1),
                "look_slot": Out(parameters.slot_bits),
                "look_behind": In(1),
                #: The next key, for the read set of ``key_slot``, or the message that some are lost; and that it is
                #: taken.
                "key_valid": In(1),
                "key_slot": In(parameters.slot_bits),
                "key": In(8 * KEY_BYTES),
                "key_lost": In(1),
                "key_ready": Out(1),
            }
        )


class LogFetchSignature(wiring.Signature):
    """From the LogFollower's side."""

    def __init__(self, parameters: Parameters):
        super().__init__(
            {
                #: A burst is to be fetched for ``slot``: its first beat in the log, and how many; and it is taken over:
                #: it will be fetched.
                "due": Out(1),
                "slot": Out(parameters.slot_bits),
                "first": Out(range(parameters.aperture_depth // LANES)),
                "beats": Out(range(MAX_BEATS + 1)),
                "fetched": In(1),
                #: A beat of it has come from memory; and has no data.
                "beat_valid": In(1),
                "beat_failed": In(1),
            }
        )
