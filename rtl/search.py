"""Search of the k largest scores of several rows at once."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import EXPERT_BITS
from hwattn.rtl.pipeline import delayed

RANK_BITS = 4
SCORE_BITS = 48


class Search(wiring.Component):
    """Keep the scores of `lanes` rows and find the `k` largest of each in descending order, equal ones in ascending order of expert.

    One pass over the experts for each rank: the largest of those that come after the one found before.

    Parameters
    ----------
    lanes : int
        Rows side by side.
    depth : int
        Largest number of experts.

    Members
    -------
    write, write_expert, scores : In
        Keep the scores of one expert, one 48-bit score per row.
    experts, k : In
        How many scores to search, and for how many; stable until `finished`.
    start : In
        Begin; the last score may be written in the same cycle at the latest.
    finished : Out
        From when all are found until `start`.
    rank : In
    chosen : Out, array of expert numbers
        What was found at `rank` in each row, in the same cycle.

    Latency
    -------
    ``k * (experts + 3)`` cycles from `start` to `finished`.

    Bit accuracy
    ------------
    The order of `hwattn.sim.model.router.route`.
    """

    def __init__(self, lanes: int, depth: int) -> None:
        self._lanes = lanes
        self._depth = depth
        super().__init__(
            {
                "write": In(1),
                "write_expert": In(EXPERT_BITS),
                "scores": In(data.ArrayLayout(signed(SCORE_BITS), lanes)),
                "experts": In(EXPERT_BITS),
                "k": In(RANK_BITS),
                "start": In(1),
                "finished": Out(1),
                "rank": In(RANK_BITS),
                "chosen": Out(data.ArrayLayout(EXPERT_BITS, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = range(self._lanes)
        score_array = data.ArrayLayout(signed(SCORE_BITS), self._lanes)
        expert_array = data.ArrayLayout(EXPERT_BITS, self._lanes)
        m.submodules.kept = kept = Memory(shape=score_array, depth=self._depth, init=[])
        m.submodules.order = order = Memory(shape=expert_array, depth=1 << RANK_BITS, init=[])
        keep, read = kept.write_port(), kept.read_port()
        order_write, order_read = order.write_port(), order.read_port(domain="comb")
        rank = Signal(RANK_BITS)
        expert = Signal(EXPERT_BITS)
        issue = Signal(data.StructLayout({"valid": 1, "expert": EXPERT_BITS, "last": 1}))
        tags = delayed(m, issue, 2, "tag")
        candidate, best, previous = (
            Signal(score_array, name=name) for name in ("candidate", "best", "previous")
        )
        best_expert, previous_expert = (
            Signal(expert_array, name=name) for name in ("best_expert", "previous_expert")
        )
        eligible, found = Signal(self._lanes), Signal(self._lanes)
        m.d.comb += [
            keep.en.eq(self.write),
            keep.addr.eq(self.write_expert),
            keep.data.eq(self.scores),
            read.addr.eq(expert),
            issue.expert.eq(expert),
            issue.last.eq(expert == self.experts - 1),
            order_write.addr.eq(rank),
            order_write.data.eq(best_expert),
            order_read.addr.eq(self.rank),
            self.chosen.eq(order_read.data),
        ]
        m.d.sync += candidate.eq(read.data)
        for i in lanes:
            score = read.data[i]
            later = tags[0].expert > previous_expert[i]
            below = (score < previous[i]) | ((score == previous[i]) & later)
            m.d.sync += eligible[i].eq(tags[0].valid & ((rank == 0) | below))
            with m.If(eligible[i] & (~found[i] | (candidate[i] > best[i]))):
                m.d.sync += [best[i].eq(candidate[i]), best_expert[i].eq(tags[1].expert), found[i].eq(1)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [rank.eq(0), self.finished.eq(0)]
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += issue.valid.eq(1)
                m.d.sync += expert.eq(expert + 1)
                with m.If(issue.last):
                    m.d.sync += expert.eq(0)
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(tags[1].valid & tags[1].last):
                    m.next = "KEEP"
            with m.State("KEEP"):
                m.d.comb += order_write.en.eq(1)
                m.d.sync += [
                    previous.eq(best),
                    previous_expert.eq(best_expert),
                    found.eq(0),
                    rank.eq(rank + 1),
                ]
                m.next = "READ"
                with m.If(rank == self.k - 1):
                    m.d.sync += self.finished.eq(1)
                    m.next = "IDLE"
        return m
