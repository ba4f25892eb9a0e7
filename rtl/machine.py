"""The whole machine: units, memories, command processor and the host's bus."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.axi import axi_port
from hwattn.rtl.dispatcher import Dispatcher
from hwattn.rtl.external_access import ExternalAccess
from hwattn.rtl.fetcher import Fetcher
from hwattn.rtl.host import Host, host_request, host_response
from hwattn.rtl.layernorm import LayerNorm
from hwattn.rtl.loader import Loader
from hwattn.rtl.matrix import Matrix
from hwattn.rtl.memory import BankedMemory, WordMemory
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.post import Post
from hwattn.rtl.program_reader import ProgramReader
from hwattn.rtl.queue import lookup_queues, unit_kinds
from hwattn.rtl.read_arbiter import ReadArbiter
from hwattn.rtl.registers import Registers
from hwattn.rtl.router import Router
from hwattn.rtl.softmax import Softmax
from hwattn.rtl.storer import Storer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import encode
from hwattn.spec.program import Program
from hwattn.spec.registers import ActReader, ActWriter, ErrorCause, Status, WeightReader
from hwattn.spec.tables import activation_table

STATUS_BITS = len(Status)


class Machine(wiring.Component):
    """An accelerator for vision transformers and mixtures of experts.

    Parameters
    ----------
    config : AcceleratorConfig
        Everything that shapes the hardware.
    program : Program, optional
        Initial contents of the memories on chip, for `config`; without one the host writes them. PROGRAM_HASH then begins with the program's, but
        for machines with external memory, where the host must write the weights first.
    multiplier_style : MultiplierStyle
        How the target multiplies; programs, results and cycles do not depend on it.

    Members
    -------
    request : In(host_request()), response : Out(host_response())
        Reads and writes of 32-bit units; ``spec.registers`` numbers them.
    status : Out(4)
        Bits of ``spec.registers.Status``, for pins and testbenches.
    axi : Out(axi_port(config))
        The port to external memory, where `config.external_words` is not 0.

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
        external = {"axi": Out(axi_port(config))} if config.external_words else {}
        super().__init__(
            {
                "request": In(host_request()),
                "response": Out(host_response()),
                "status": Out(STATUS_BITS),
                **external,
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
        router = Router(config) if config.experts else None
        host = Host(config)
        whole = program is not None and not config.external_words
        registers = Registers(
            config, program.hash if program and whole else 0, table.interval_shift if table else 6
        )
        weight = WordMemory(
            config,
            config.weight_words,
            readers=len(WeightReader),
            init=program.weights if program and not config.external_words else None,
        )
        m.submodules.host = host
        m.submodules.registers = registers
        m.submodules.weight = weight
        m.submodules.dispatcher = ResetInserter(registers.reset)(dispatcher)
        abort = Signal()
        m.d.comb += abort.eq(registers.reset | dispatcher.abort)
        units = {
            "matrix": matrix,
            "loader": loader,
            "post": post,
            "softmax": softmax,
            "layernorm": layernorm,
            **({"router": router} if router else {}),
        }
        for name, unit in units.items():
            m.submodules[name] = ResetInserter(abort)(unit)

        commands = {
            "load": (loader.load, loader.done),
            "copy": (loader.copy, loader.done),
            "matmul": (matrix.command, matrix.done),
            "post": (post.command, post.done),
            "softmax": (softmax.command, softmax.done),
            "norm": (layernorm.command, layernorm.done),
        }
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
        if router:
            commands["route"] = (router.command, router.done)
            self._routes(m, router, dispatcher, matrix, loader, post, layernorm)
        if config.external_words:
            fetcher, storer = self._external(m, abort, dispatcher, registers, host)
            commands |= {"fetch": (fetcher.command, fetcher.done), "store": (storer.command, storer.done)}
            readers[ActReader.STORE] = storer.act
            writers[ActWriter.FETCH] = fetcher.act_write
            # the host writes weights and parameters only while the machine is at rest
            m.d.comb += [
                weight.write.valid.eq(fetcher.weight_write.valid | host.weight_write.valid),
                weight.write.payload.eq(
                    Mux(fetcher.weight_write.valid, fetcher.weight_write.payload, host.weight_write.payload)
                ),
                host.weight_write.ready.eq(~fetcher.weight_write.valid),
            ]
            for target, one, other in (
                (post.param_write, fetcher.param_write, host.param_write),
                (layernorm.param_write, fetcher.norm_write, host.norm_write),
            ):
                m.d.comb += [
                    target.valid.eq(one.valid | other.valid),
                    target.payload.eq(Mux(one.valid, one.payload, other.payload)),
                    one.ready.eq(target.ready),
                    other.ready.eq(target.ready & ~one.valid),
                ]
        else:
            connect(m, host.weight_write, weight.write)
            connect(m, host.param_write, post.param_write)
            connect(m, host.norm_write, layernorm.param_write)
        for kind in unit_kinds(config):
            name = kind.__name__.lower()
            command, done = commands[name]
            connect(m, getattr(dispatcher, f"command_{name}"), command)
            m.d.comb += getattr(dispatcher, f"done_{name}").eq(done)

        m.submodules.act = act = BankedMemory(config, readers=len(readers), writers=len(writers))
        m.d.comb += [act.abort.eq(abort), weight.abort.eq(abort)]
        # in order of their numbers: the highest priority first
        for place, reader in enumerate(sorted(readers)):
            connect(m, readers[reader], act.reads[place])
        for place, writer in enumerate(sorted(writers)):
            connect(m, writers[writer], act.writes[place])
        connect(m, matrix.weight, weight.reads[WeightReader.MATRIX])
        connect(m, loader.weight, weight.reads[WeightReader.LOAD])

        connect(m, loader.resident, matrix.load_write)
        connect(m, softmax.resident, matrix.softmax_write)
        connect(m, matrix.growth, softmax.growth)
        connect(m, post.acc, matrix.acc_post)
        connect(m, softmax.acc, matrix.acc_softmax)
        connect(m, post.sums, softmax.sums)

        connect(m, host.table_write, post.table_write)
        connect(m, host.program_write, dispatcher.program_write)
        connect(m, host.register_write, registers.write)
        connect(m, flipped(self.request), host.request)
        connect(m, host.response, flipped(self.response))
        for reader, port in readers.items():
            m.d.comb += registers.read_stall[reader].eq(port.request.valid & ~port.request.ready)
        for writer, port in writers.items():
            m.d.comb += registers.write_stall[writer].eq(port.valid & ~port.ready)
        m.d.comb += [
            registers.weight_stall.eq(
                Cat(port.request.valid & ~port.request.ready for port in (matrix.weight, loader.weight))
            ),
            registers.register.eq(host.register),
            registers.read.eq(host.register_read),
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

    def _routes(
        self,
        m: Module,
        router: Router,
        dispatcher: Dispatcher,
        matrix: Matrix,
        loader: Loader,
        post: Post,
        layernorm: LayerNorm,
    ) -> None:
        """Connect the router with those that it reads, and with those that ask it; without it, they read zeros."""
        for number in range(len(lookup_queues(self.config))):
            connect(m, dispatcher.lookups[number], router.lookups[number])
        connect(m, router.acc, matrix.acc_route)
        connect(m, loader.entry, router.entries[0])
        connect(m, post.entry, router.entries[1])
        connect(m, router.param, layernorm.param)

    def _external(
        self, m: Module, abort: Signal, dispatcher: Dispatcher, registers: Registers, host: Host
    ) -> tuple[Fetcher, Storer]:
        """Make the units at the port to external memory: one has its read channels, one its write channels, and the host both at rest."""
        m.submodules.fetcher = fetcher = Fetcher(self.config)
        m.submodules.storer = storer = Storer(self.config)
        m.submodules.external_access = access = ExternalAccess(self.config)
        reading = self._program(m, dispatcher, registers, fetcher) if self.config.program_streamed else None
        for name, member in axi_port(self.config).members.items():
            unit = (reading or fetcher) if name.startswith("ar") or name[0] == "r" else storer
            mine, its, hosts = (getattr(port, name) for port in (self.axi, unit.axi, access.axi))
            if member.flow == Out:
                m.d.comb += mine.eq(Mux(access.busy, hosts, its))
            elif name.endswith(("valid", "ready")):
                m.d.comb += [its.eq(mine & ~access.busy), hosts.eq(mine & access.busy)]
            else:
                m.d.comb += [its.eq(mine), hosts.eq(mine)]
        for unit in (fetcher, storer, access):
            m.d.comb += [unit.page.eq(registers.external_page), unit.limit.eq(registers.bus_timeout)]
        connect(m, host.external, access.port)
        m.d.comb += [
            fetcher.abort.eq(abort),
            storer.abort.eq(abort),
            host.window.eq(registers.external_window),
            registers.write_beat.eq(storer.beat),
        ]
        # of the units that read, those that the machine has
        owing, beats, fault = fetcher.busy | storer.busy, fetcher.beat, storer.fault
        if reading:
            reader = m.submodules.program_reader
            owing, beats = owing | reader.busy, beats | reader.beat
            fault = Mux(reader.fault != ErrorCause.NONE, reader.fault, fault)
        m.d.comb += [
            access.rest.eq(~dispatcher.running & ~owing),
            registers.read_beat.eq(beats),
            dispatcher.fault.eq(Mux(fetcher.fault != ErrorCause.NONE, fetcher.fault, fault)),
        ]
        return fetcher, storer

    def _program(
        self, m: Module, dispatcher: Dispatcher, registers: Registers, fetcher: Fetcher
    ) -> ReadArbiter:
        """Make the reader of the program, and what shares the read channels between it and the fetcher."""
        m.submodules.program_reader = reader = ProgramReader(self.config)
        m.submodules.read_arbiter = arbiter = ReadArbiter(self.config)
        connect(m, reader.axi, arbiter.program)
        connect(m, fetcher.axi, arbiter.fetch)
        connect(m, reader.instruction, dispatcher.instruction)
        m.d.comb += [
            reader.run.eq(dispatcher.reading),
            dispatcher.owing.eq(reader.busy),
            reader.pc.eq(dispatcher.pc),
            reader.page.eq(registers.external_page),
            reader.limit.eq(registers.bus_timeout),
        ]
        return arbiter
