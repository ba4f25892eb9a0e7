"""A bench for unit tests in Amaranth's simulator: clock, reset, watchdog, and models of every port, with random stalls.

    bench = Bench(dut, seed=1, stall=0.3)
    bench.memory(dut.act, words)              # a read port
    bench.memory(None, words, dut.write)      # a write port
    async def test(ctx):
        await bench.execute(ctx, dut, Norm(rows=3, ...))
    bench.run(test)

Everything is sampled just before the clock edge, and driven just after it.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import ClockDomain, Module, Value
from amaranth.lib import data
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hwattn.rtl.commands import command_layout
from hwattn.spec.isa import Instruction

Context = Any
"""amaranth.sim.SimulatorContext, whose methods carry no useful types."""


class Watchdog(AssertionError):
    """The device under test did not finish."""


def word_of(lanes: Iterable[int]) -> int:
    """Pack bytes (int8 or uint8), lane 0 lowest, into a word."""
    return int.from_bytes(bytes(int(value) & 255 for value in lanes), "little")


def lanes_of(word: int, lanes: int) -> NDArray[np.int8]:
    """Unpack a word into int8 lanes."""
    return np.frombuffer(int(word).to_bytes(lanes, "little"), np.int8)


def command_of(instruction: Instruction, expert: int = 0, rows: int | None = None) -> dict[str, int]:
    """Return the command of an instruction: fields by name; `rows`, if given, is what predication lowers it to."""
    members = command_layout(type(instruction)).members
    command = {name: int(getattr(instruction, name)) for name in members if name != "expert"}
    if "expert" in members:
        command["expert"] = expert
    if rows is not None:
        command["rows"] = rows
    return command


def _plain(value: Any) -> Any:
    """Turn a sampled struct into a dict and a sampled array into a list."""
    if isinstance(value, data.Const):
        layout = value.shape()
        if isinstance(layout, data.StructLayout):
            return {name: _plain(value[name]) for name in layout.members}
        if isinstance(layout, data.ArrayLayout):
            return [_plain(value[index]) for index in range(layout.length)]
    return value


class Bench:
    """A device under test, and what stands around it.

    Parameters
    ----------
    dut : Component
        Anything with a ``sync`` domain.
    seed : int
        Of the stalls, and of `random`, which tests may use too.
    stall : float
        Probability that a port which may stall does so in a cycle.
    limit : int
        Cycles after which `run` fails.
    """

    def __init__(self, dut: Component, seed: int = 0, stall: float = 0.3, limit: int = 100_000) -> None:
        self.dut = dut
        self.random = random.Random(seed)
        self.stall = stall
        self.limit = limit
        self.cycles = 0
        self._domain = ClockDomain("sync")
        module = Module()
        module.domains.sync = self._domain
        module.submodules.dut = dut
        self._simulator = Simulator(module)
        self._simulator.add_clock(1e-6)

    def go(self) -> bool:
        """Draw whether a port moves in this cycle."""
        return self.random.random() >= self.stall

    # Ports with models

    def background(self, process: Callable[[Context], Awaitable[None]]) -> None:
        """Add a process that runs as long as the test."""

        async def run(ctx: Context) -> None:
            await process(ctx)

        self._simulator.add_testbench(run, background=True)

    def memory(
        self, read: Any, words: NDArray[Any], write: Any = None, log: list[dict[str, int]] | None = None
    ) -> None:
        """Serve a read port and apply a write port (either may be None) to `words`, int8 or uint8 of shape (words, lanes).

        The array itself is read and changed, at the cycle of the handshake; `log` receives every write.
        """
        if read is not None:
            self.background(lambda ctx: self._serve(ctx, read, words))
        if write is not None:
            self.background(lambda ctx: self._apply(ctx, write, words, log))

    async def _serve(self, ctx: Context, port: Any, words: NDArray[Any]) -> None:
        lanes = words.shape[1]
        while True:
            ctx.set(port.request.ready, self.go())
            *_, valid, ready, address, reset = await ctx.tick().sample(
                port.request.valid, port.request.ready, port.request.payload, self._domain.rst
            )
            taken = valid and ready and not reset
            assert not taken or address < len(words), f"read of word {address} beyond {len(words)}"
            ctx.set(port.valid, taken)
            ctx.set(port.data, word_of(words[address]) if taken else self.random.getrandbits(8 * lanes))

    async def _apply(
        self, ctx: Context, port: Any, words: NDArray[Any], log: list[dict[str, int]] | None
    ) -> None:
        def apply(write: dict[str, int]) -> None:
            assert write["addr"] < len(words), f"write of word {write['addr']} beyond {len(words)}"
            lanes = lanes_of(write["data"], words.shape[1]).view(words.dtype)
            for lane in range(words.shape[1]):
                if write["mask"] >> lane & 1:
                    words[write["addr"], lane] = lanes[lane]
            if log is not None:
                log.append(write)

        await self._take(ctx, port, apply)

    async def _take(self, ctx: Context, stream: Any, use: Callable[[Any], None]) -> None:
        held: Any = None  # the payload that waits for ready must not change
        while True:
            ctx.set(stream.ready, self.go())
            *_, valid, ready, payload, reset = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload, self._domain.rst
            )
            payload = _plain(payload)
            if reset:
                held = None
                continue
            assert held is None or (valid and payload == held), (
                "a stalled stream changed its payload or took it back"
            )
            held = payload if valid and not ready else None
            if valid and ready:
                use(payload)

    def collect(self, stream: Any) -> list[Any]:
        """Take everything from a stream; the list that is returned grows (dicts for structs)."""
        taken: list[Any] = []
        self.background(lambda ctx: self._take(ctx, stream, taken.append))
        return taken

    def feed(self, stream: Any, items: list[Any]) -> None:
        """Send `items` (ints or dicts) to a stream in order, taking them out of the list; more may be appended."""

        async def process(ctx: Context) -> None:
            while True:
                if items and self.go():
                    await self.send(ctx, stream, items.pop(0))
                else:
                    await ctx.tick()

        self.background(process)

    def accumulators(self, port: Any, columns: NDArray[Any]) -> None:
        """Serve an accumulator port from an array of shape (columns, rows); garbage where nothing was asked."""

        def answer(enable: int, address: int) -> list[int]:
            if not enable:
                return [self.random.randint(-(2**31), 2**31 - 1) for _ in range(columns.shape[1])]
            assert address < len(columns), f"read of column {address} beyond {len(columns)}"
            return [int(value) for value in columns[address]]

        self.registered([port.enable, port.addr], [port.data], lambda *inputs: (answer(*inputs),))

    def registered(
        self, inputs: Sequence[Any], outputs: Sequence[Any], answer: Callable[..., Sequence[Any]]
    ) -> None:
        """Drive `outputs` with ``answer(*inputs)`` one cycle later."""

        async def process(ctx: Context) -> None:
            async for _clock, _reset, *values in ctx.tick().sample(*inputs):
                for output, value in zip(outputs, answer(*map(_plain, values)), strict=True):
                    ctx.set(output, value)

        self.background(process)

    def combinational(
        self, inputs: Sequence[Any], outputs: Sequence[Any], answer: Callable[..., Sequence[Any]]
    ) -> None:
        """Drive `outputs` with ``answer(*inputs)`` in the same cycle."""

        async def process(ctx: Context) -> None:
            async for values in ctx.changed(*(Value.cast(each) for each in inputs)):
                for output, value in zip(outputs, answer(*values), strict=True):
                    ctx.set(output, value)

        self._simulator.add_process(process)

    # Steps of a test

    async def send(self, ctx: Context, stream: Any, payload: Any) -> None:
        """Send one payload (an int or a dict) and return in the cycle after the handshake."""
        ctx.set(stream.payload, payload)
        ctx.set(stream.valid, 1)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)

    async def start(self, ctx: Context, unit: Any, command: Instruction | Mapping[str, int]) -> None:
        """Send a command (an instruction, or its fields by name) to a unit's or its own stream `command`."""
        fields = command_of(command) if isinstance(command, Instruction) else dict(command)
        await self.send(ctx, getattr(unit, "command", unit), fields)

    async def execute(
        self, ctx: Context, unit: Any, command: Instruction | Mapping[str, int], stream: Any = None
    ) -> int:
        """Send a command and wait until it is done; return the cycles from acceptance to `done`.

        `stream` is the command stream, where the unit has several. Checks that `busy` holds from acceptance to `done`.
        """
        await self.start(ctx, stream if stream is not None else unit, command)
        cycles = 0
        async for _clock, _reset, done, busy in ctx.tick().sample(unit.done, unit.busy):
            cycles += 1
            assert busy, "busy must hold until done"
            if done:
                break
        assert not ctx.get(unit.done), "done must be a pulse of one cycle"
        assert not ctx.get(unit.busy), "busy must end with done"
        return cycles

    async def wait(self, ctx: Context, cycles: int) -> None:
        """Let some cycles pass."""
        for _ in range(cycles):
            await ctx.tick()

    async def reset(self, ctx: Context) -> None:
        """Reset the device for one cycle."""
        ctx.set(self._domain.rst, 1)
        await ctx.tick()
        ctx.set(self._domain.rst, 0)

    def run(self, test: Callable[[Context], Awaitable[None]], waves: str | None = None) -> None:
        """Run the test to its end; `waves` names a VCD file."""

        async def watchdog(ctx: Context) -> None:
            async for _ in ctx.tick():
                self.cycles += 1
                if self.cycles > self.limit:
                    raise Watchdog(f"not finished after {self.limit} cycles")

        self._simulator.add_testbench(watchdog, background=True)
        self._simulator.add_testbench(test)
        if waves is None:
            self._simulator.run()
        else:
            with self._simulator.write_vcd(waves):
                self._simulator.run()
