"""The whole machine: units, memories, command processor and the host's bus."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.dispatcher import LOOKUP_QUEUES, UNIT_KINDS, Dispatcher
from hwattn.rtl.host import Host, host_request, host_response
from hwattn.rtl.layernorm import LayerNorm
from hwattn.rtl.loader import Loader
from hwattn.rtl.matrix import Matrix
from hwattn.rtl.memory import BankedMemory, WordMemory
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.post import Post
from hwattn.rtl.registers import Registers
from hwattn.rtl.router import Router
from hwattn.rtl.softmax import Softmax
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import encode
from hwattn.spec.program import Program
from hwattn.spec.registers import ActReader, ActWriter, Status, WeightReader
from hwattn.spec.tables import activation_table

STATUS_BITS = len(Status)


class Machine(wiring.Component):
    """An accelerator for vision transformers and mixtures of experts.

    Parameters
    ----------
    config : AcceleratorConfig
        Everything that shapes the hardware.
    program : Program, optional
        Initial contents of the memories, for `config`; without one the host writes them.
    multiplier_style : MultiplierStyle
        How the target multiplies; programs, results and cycles do not depend on it.

    Members
    -------
    request : In(host_request()), response : Out(host_response())
        Reads and writes of 32-bit units; ``spec.registers`` numbers them.
    status : Out(4)
        Bits of ``spec.registers.Status``, for pins and testbenches.

    Latency
    -------
    See the units. Counters tell where cycles go.

    Bit accuracy
    ------------
    ``hwattn.sim.model.executor.Executor``: after every instruction in single-step mode, and at the end when running free.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        program: Program | None = None,
        multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    ) -> None:
        if program is not None and program.config != config:
            raise ValueError("the program was compiled for another configuration")
        self.config = config
        self.program = program
        self.multiplier_style = multiplier_style
        super().__init__(
            {
                "request": In(host_request()),
                "response": Out(host_response()),
                "status": Out(STATUS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, program = self.config, self.program
        table = activation_table(program.activation) if program else None
        dispatcher = Dispatcher(config, [encode(entry) for entry in program.instructions] if program else ())
        matrix = Matrix(config, self.multiplier_style)
        loader = Loader(config)
        post = Post(config, program.params if program else None, table)
        softmax = Softmax(config)
        layernorm = LayerNorm(config, program.norm_params if program else None)
        router = Router(config)
        host = Host(config)
        registers = Registers(config, program.hash if program else 0, table.interval_shift if table else 6)
        act = BankedMemory(config, readers=len(ActReader), writers=len(ActWriter))
        weight = WordMemory(
            config, config.weight_words, readers=len(WeightReader), init=program.weights if program else None
        )
        reset = registers.reset
        m.submodules.host = host
        m.submodules.registers = registers
        m.submodules.act = act
        m.submodules.weight = weight
        units = {
            "dispatcher": dispatcher,
            "matrix": matrix,
            "loader": loader,
            "post": post,
            "softmax": softmax,
            "layernorm": layernorm,
            "router": router,
        }
        for name, unit in units.items():
            m.submodules[name] = ResetInserter(reset)(unit)

        commands = {
            "load": (loader.load, loader.done),
            "copy": (loader.copy, loader.done),
            "matmul": (matrix.command, matrix.done),
            "post": (post.command, post.done),
            "softmax": (softmax.command, softmax.done),
            "norm": (layernorm.command, layernorm.done),
            "route": (router.command, router.done),
        }
        for kind in UNIT_KINDS:
            name = kind.__name__.lower()
            command, done = commands[name]
            connect(m, getattr(dispatcher, f"command_{name}"), command)
            m.d.comb += getattr(dispatcher, f"done_{name}").eq(done)
        for number in range(len(LOOKUP_QUEUES)):
            connect(m, dispatcher.lookups[number], router.lookups[number])

        readers = {
            ActReader.MATRIX: matrix.act,
            ActReader.POST: post.act_read,
            ActReader.NORM: layernorm.act,
            ActReader.LOAD: loader.act,
            ActReader.HOST: host.act_read,
        }
        writers = {
            ActWriter.POST: post.act_write,
            ActWriter.NORM: layernorm.act_write,
            ActWriter.LOAD: loader.act_write,
            ActWriter.HOST: host.act_write,
        }
        for number, port in readers.items():
            connect(m, port, act.reads[number])
        for number, port in writers.items():
            connect(m, port, act.writes[number])
        connect(m, matrix.weight, weight.reads[WeightReader.MATRIX])
        connect(m, loader.weight, weight.reads[WeightReader.LOAD])
        connect(m, host.weight_write, weight.write)

        connect(m, loader.resident, matrix.load_write)
        connect(m, softmax.resident, matrix.softmax_write)
        connect(m, matrix.growth, softmax.growth)
        connect(m, post.acc, matrix.acc_post)
        connect(m, softmax.acc, matrix.acc_softmax)
        connect(m, router.acc, matrix.acc_route)
        connect(m, post.sums, softmax.sums)
        connect(m, loader.entry, router.entries[0])
        connect(m, post.entry, router.entries[1])
        connect(m, router.param, layernorm.param)

        connect(m, host.param_write, post.param_write)
        connect(m, host.table_write, post.table_write)
        connect(m, host.norm_write, layernorm.param_write)
        connect(m, host.program_write, dispatcher.program_write)
        connect(m, host.register_write, registers.write)
        connect(m, flipped(self.request), host.request)
        connect(m, host.response, flipped(self.response))
        stalled = [
            Signal(len(ports), name=f"{name}_stall")
            for name, ports in (("read", readers), ("write", writers))
        ]
        m.d.comb += [
            stalled[0].eq(Cat(port.request.valid & ~port.request.ready for port in readers.values())),
            stalled[1].eq(Cat(port.valid & ~port.ready for port in writers.values())),
            registers.read_stall.eq(stalled[0]),
            registers.write_stall.eq(stalled[1]),
            registers.weight_stall.eq(
                Cat(port.request.valid & ~port.request.ready for port in (matrix.weight, loader.weight))
            ),
            registers.register.eq(host.register),
            host.register_data.eq(registers.data),
            host.scan_base.eq(registers.scan_base),
            host.scan_words.eq(registers.scan_words),
            registers.scan_crc.eq(host.scan_crc),
            registers.matrix_active.eq(matrix.active),
            post.interval_shift.eq(registers.interval_shift),
            dispatcher.start.eq(registers.start),
            dispatcher.step.eq(registers.step),
            dispatcher.single_step.eq(registers.single_step),
            dispatcher.entry.eq(registers.entry),
            self.status.eq(Cat(dispatcher.running, dispatcher.paused, dispatcher.done, dispatcher.error)),
        ]
        for name in (
            "running",
            "paused",
            "done",
            "error",
            "cause",
            "pc",
            "occupied",
            "working",
            "waiting",
            "issued",
            "skipped",
        ):
            m.d.comb += getattr(registers, name).eq(getattr(dispatcher, name))
        for queue, head in enumerate(dispatcher.head):
            m.d.comb += registers.head[queue].eq(head)
        return m
