"""Parity: every single wrong bit, and memory that is stuck or was never written, is seen."""

import pytest
from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.sim import Simulator
from bloomgate_hdl.parity import is_bad, parity_of, protected_bits


def evaluate(bits, words):
    """(parity_of, is_bad) for words of `bits` data bits, each a pair of data and parity."""
    data, parity = Signal(bits), Signal(protected_bits(bits) - bits)
    parity_now, bad_now = Signal(len(parity) + 1), Signal()
    m = Module()
    m.d.comb += [parity_now.eq(parity_of(data)), bad_now.eq(is_bad(Cat(data, parity), bits))]
    answers = []

    async def bench(ctx):
        for data_value, parity_value in words:
            ctx.set(data, data_value)
            ctx.set(parity, parity_value)
            answers.append((ctx.get(parity_now), bool(ctx.get(bad_now))))

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    return answers


def test_width_is_that_of_the_native_block_ram_word():
    assert protected_bits(32) == 36
    assert [protected_bits(bits) for bits in (1, 8, 9, 16, 17, 24, 25)] == [2, 9, 11, 18, 20, 27, 29]
    for bits in range(1, 33):
        assert len(parity_of(Const(0, bits))) == protected_bits(bits) - bits


@pytest.mark.parametrize("bits", [2, 8, 9, 10, 31, 32])
def test_good_words_are_good_and_every_single_wrong_bit_is_bad(bits):
    values = {0, (1 << bits) - 1, 0x9E37_79B9 & ((1 << bits) - 1), 1, 1 << (bits - 1)}
    parities = {
        value: parity for value, (parity, _) in zip(values, evaluate(bits, [(v, 0) for v in values]), strict=True)
    }
    words, expected = [], []
    for value, parity in parities.items():
        words.append((value, parity))
        expected.append(False)
        for bit in range(protected_bits(bits)):
            wrong = (value | parity << bits) ^ 1 << bit
            words.append((wrong & ((1 << bits) - 1), wrong >> bits))
            expected.append(True)
        # As faults are injected.
        words.append((value, parity ^ ((1 << (protected_bits(bits) - bits)) - 1)))
        expected.append(True)
    assert [bad for _, bad in evaluate(bits, words)] == expected


@pytest.mark.parametrize("bits", range(1, 33))
def test_a_word_that_was_never_written_is_bad(bits):
    assert evaluate(bits, [(0, 0)])[0][1]


@pytest.mark.parametrize("bits", [bits for bits in range(1, 33) if bits > 8 or bits % 2])
def test_a_word_stuck_at_ones_is_bad(bits):
    ones = (1 << protected_bits(bits)) - 1
    assert evaluate(bits, [(ones & ((1 << bits) - 1), ones >> bits)])[0][1]
