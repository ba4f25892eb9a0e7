from __future__ import annotations

import numpy as np
import pytest
from bench import Bench, Context

from hwattn.rtl.activation import Activation
from hwattn.sim.model.post import activate
from hwattn.spec.tables import ActivationTable, activation_table


def compare(dut: Activation, bench: Bench, table: ActivationTable, lanes: int, load: bool) -> None:
    edges = [
        -(1 << 17),
        (1 << 17) - 1,
        0,
        1,
        -1,
        63,
        64,
        127,
        128,
        32767,
        32768,
        -32767,
        -32768,
        65535,
        65536,
        -65536,
    ]
    values = np.array(edges + [bench.random.randint(-40000, 40000) for _ in range(400)])
    values = np.concatenate([values, np.arange(12000, 12300)])
    values = values[: len(values) // lanes * lanes].reshape(-1, lanes)
    expected = activate(values, table)

    async def test(ctx: Context) -> None:
        ctx.set(dut.interval_shift, table.interval_shift - 6)
        for addr in range(512 if load else 0):
            entry = {"value": int(table.value[addr]), "difference": int(table.difference[addr])}
            assert ctx.get(dut.table_write.ready)
            await bench.send(ctx, dut.table_write, {"addr": addr, "data": entry})
        for cycle in range(len(values) + Activation.DELAY):
            if cycle >= Activation.DELAY:
                assert [ctx.get(dut.result[i]) for i in range(lanes)] == list(
                    expected[cycle - Activation.DELAY]
                )
            for i in range(lanes if cycle < len(values) else 0):
                ctx.set(dut.value[i], int(values[cycle, i]))
            await ctx.tick()

    bench.run(test)


@pytest.mark.parametrize("name", ["gelu", "silu", "relu", "hard_swish"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_initial_table(name: str, lanes: int) -> None:
    table = activation_table(name)
    dut = Activation(lanes, table)
    compare(dut, Bench(dut), table, lanes, load=False)


def test_table_written_by_the_host() -> None:
    rng = np.random.default_rng(0)
    table = ActivationTable(rng.integers(-(2**19), 2**19, 512), rng.integers(-(2**15), 2**15, 512), 7)
    dut = Activation(2)
    compare(dut, Bench(dut), table, 2, load=True)
