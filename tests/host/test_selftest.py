"""The self-test passes on what is right, and names the first difference of what is not."""

import re

import pytest
from bloomgate import Device, Reason, Verdict, open_device
from bloomgate.backends.model import ModelDevice
from bloomgate.backends.soft import SoftDevice
from bloomgate.selftest import SelftestFailure, selftest


def test_passes(backend, small: Device, seed: int) -> None:
    rounds = 2000 // backend.slowness
    calls: list[tuple[int, int]] = []
    report = selftest(small, seed=seed, rounds=rounds, progress=lambda *call: calls.append(call))
    assert calls == [(number, rounds) for number in range(1, rounds + 1)]
    assert (report.seed, report.rounds) == (seed, rounds)
    assert report.requests == sum(report.verdicts.values()) > rounds // 2
    stats = small.stats()
    assert report.epoch_steps == stats["epoch_steps"]
    assert report.verdicts.get("COMMIT", 0) + report.verdicts.get("READ_ONLY", 0) == stats["commits"]
    for reason in Reason:
        assert report.verdicts.get(reason.name, 0) == stats[f"aborts_{reason.name.lower()}"]
    if backend.slowness == 1:
        assert set(report.verdicts) == {"COMMIT", "READ_ONLY", "CONFLICT", "ROLLOVER", "BAD_REQUEST", "PARITY"}
        assert set(report.operations) == {"raise_floor", "reset", "inject_parity_error"}
        assert report.epoch_steps > report.operations["reset"], "no rollover"
        assert report.false_aborts > 0


@pytest.mark.parametrize(
    "options", ["", "?K=8&D=64", "?initial_epoch=0xffffffff&timestamp_bits=3", "?aperture_depth=4"]
)
def test_passes_with_other_geometries(options: str, seed: int) -> None:
    with open_device(f"soft:{options}") as device:
        selftest(device, seed=seed, rounds=300)


def test_every_reason_is_asked_for_even_in_no_rounds() -> None:
    with open_device("soft:") as device:
        verdicts = selftest(device, seed=1, rounds=0).verdicts
    assert set(verdicts) >= {"COMMIT", "READ_ONLY", "BAD_REQUEST", "PARITY", "CONFLICT"}


def test_the_seed_repeats_it() -> None:
    reports = []
    for _ in range(2):
        with open_device("soft:?D=64") as device:
            reports.append(selftest(device, seed=7, rounds=200))
    assert reports[0] == reports[1]
    with open_device("soft:?D=64") as device:
        assert selftest(device, rounds=1).seed != selftest(device, rounds=1).seed


def test_a_used_device_is_reset_first(seed: int) -> None:
    with open_device("soft:?D=64") as device:
        device.commit(snapshot=0, writes=[1])
        selftest(device, seed=seed, rounds=100)
        selftest(device, seed=seed, rounds=100)


def test_a_device_that_cannot_begin() -> None:
    with open_device(f"soft:?initial_epoch={2**32 - 1}") as device:
        device.commit(snapshot=device.published, writes=[1])
        with pytest.raises(SelftestFailure, match="because the device is in its last epoch; open a new one$"):
            selftest(device)


class Blind(SoftDevice):
    """Misses every conflict with the largest key, which the self-test always uses."""

    def commit(self, *, snapshot, reads=(), writes=(), commutes=()):
        reads = [key for key in reads if key != self.parameters.max_key]
        return super().commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)


class WrongKey(SoftDevice):
    def commit(self, **request):
        verdict = super().commit(**request)
        return verdict if verdict.conflict_key is None else verdict._replace(conflict_key=3)


class SkipsATimestamp(SoftDevice):
    def last_timestamp(self):
        return super().last_timestamp() + (super().stats()["commits"] > 20)


class Miscounts(SoftDevice):
    def stats(self):
        stats = dict(super().stats())
        return {**stats, "keys_inserted": min(stats["keys_inserted"], 700)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Blind, r"self-test, seed 5, round \d+, (after )?commit\(.*\): the (verdict|statistic) .* and should be .*"),
        (WrongKey, r"self-test, seed 5, round \d+, commit\(.*\): the verdict is .*conflict_key=3\) and should be .*"),
        (SkipsATimestamp, r"self-test, seed 5, round \d+, .*: the last timestamp is \d+ and should be \d+"),
        (Miscounts, r"self-test, seed 5, round \d+, .*: the statistic keys_inserted is 700 and should be 7\d\d"),
    ],
)
def test_names_the_first_difference(make: type[Device], message: str) -> None:
    with make() as device, pytest.raises(SelftestFailure) as failure:
        selftest(device, seed=5, rounds=2000)
    assert re.fullmatch(message, str(failure.value), re.DOTALL), failure.value


def test_does_not_trust_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that model and device share is a missed conflict to the reference."""
    monkeypatch.setattr(ModelDevice, "_examine", lambda self, key, snapshot: (None, []))
    with ModelDevice() as device, pytest.raises(SelftestFailure, match="a missed conflict|as the reference STM says"):
        selftest(device, seed=5, rounds=500)


def test_a_lying_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a wrong reason is found too."""
    verdict = Verdict(False, None, Reason.ROLLOVER, None)
    monkeypatch.setattr(ModelDevice, "commit", lambda self, **request: verdict)
    with ModelDevice() as device, pytest.raises(SelftestFailure, match="as the reference STM says"):
        selftest(device, seed=5, rounds=500)
