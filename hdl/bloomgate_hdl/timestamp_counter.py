"""Where commit timestamps come from: epoch, count and floor."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bloomgate.parameters import EPOCH_BITS, Parameters

__all__ = ["TimestampCounter"]


class TimestampCounter(wiring.Component):
    """The newest timestamp, as (epoch, count), and the floor below which nothing is certain.

    At most one strobe is high in a clock cycle, except ``raise_floor`` beside ``assign``: the floor then takes the
    count before it. Reset state: epoch 0, count 0, floor 0.
    """

    def __init__(self, parameters: Parameters):
        self._parameters = parameters
        count_bits = parameters.timestamp_bits
        super().__init__(
            {
                #: Strobe: assign the next timestamp. Not when ``full``.
                "assign": In(1),
                #: Strobe: ``floor`` becomes ``count``.
                "raise_floor": In(1),
                #: Strobe: end the epoch. The next one is ``least_epoch`` or the current one + 1, whichever is greater.
                "step": In(1),
                "least_epoch": In(EPOCH_BITS),
                #: The newest timestamp; count 0 means that the epoch has none yet.
                "epoch": Out(EPOCH_BITS),
                "count": Out(count_bits),
                #: The epoch has no count left.
                "full": Out(1),
                #: The last timestamp of the epoch before.
                "previous_epoch": Out(EPOCH_BITS),
                "previous_count": Out(count_bits),
                #: A snapshot with a lower count conflicts with every read.
                "floor": Out(count_bits),
                #: The last epoch was ended: nothing can be assigned ever again.
                "exhausted": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.full.eq(self.count == self._parameters.max_count)
        with m.If(self.raise_floor):
            m.d.sync += self.floor.eq(self.count)
        with m.If(self.assign):
            m.d.sync += self.count.eq(self.count + 1)
        next_epoch = Signal(EPOCH_BITS)
        m.d.comb += next_epoch.eq(self.epoch + 1)
        with m.If(self.least_epoch > self.epoch):
            m.d.comb += next_epoch.eq(self.least_epoch)
        with m.If(self.step):
            with m.If(self.epoch.all()):
                m.d.sync += self.exhausted.eq(1)
            with m.Else():
                m.d.sync += [
                    self.previous_epoch.eq(self.epoch),
                    self.previous_count.eq(self.count),
                    self.epoch.eq(next_epoch),
                    self.count.eq(0),
                    self.floor.eq(0),
                ]
        return m
