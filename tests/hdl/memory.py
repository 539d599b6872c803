"""A :class:`~tests.memory_model.MemoryModel` on the memory port of a Component in Amaranth's simulator."""

from bloomgate_hdl.memory_port import ACP

from tests.memory_model import OUTPUTS, MemoryModel

__all__ = ["attach", "memory_for"]


def memory_for(port=ACP, *, seed=0) -> MemoryModel:
    """A memory that expects the attributes of that port."""
    return MemoryModel(seed=seed, cache=port.cache, prot=port.prot, user=port.user if port.user_width else None)


def attach(model: MemoryModel, bus):
    """A background bench that plays `model` behind `bus`, the master's side."""
    names = [*OUTPUTS, *(name for name in ("awuser", "aruser") if hasattr(bus, name))]
    signals = [getattr(bus, name) for name in names]

    async def bench(ctx):
        async for _, reset, *values in ctx.tick().sample(*signals):
            if reset:
                continue
            for name, value in model.clock(dict(zip(names, map(int, values), strict=True))).items():
                ctx.set(getattr(bus, name), value)

    return bench
