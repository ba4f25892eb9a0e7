"""The open flow: Yosys, nextpnr and a packer, from PyPI (YoWASP), for every family that nextpnr knows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hwattn.boards.board import Board
from hwattn.boards.flow import Attempt, BuildResult, Progress, Usage, run_tool, run_yosys
from hwattn.boards.nextpnr_log import NotRoutedError, RouterWatch, read_report
from hwattn.boards.top import BoardTop
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError

NAME = "top"

_PLANNED = "planned.json"
"""The netlist whose cells have sites."""

_CRASH = "ERROR: Assert"
"""In Yosys's log where it found itself, not the design, to be wrong."""

Cells = Mapping[str, Mapping[str, int]]
"""By resource: kinds of cell, and how many of the resource each takes."""

_REMEDY = {
    "lut": "lower post_lanes, softmax_lanes or rows (--set rows=...)",
    "ff": "lower rows or lanes (--set rows=...)",
    "dsp": "lower rows or lanes (--set rows=...)",
    "ram": "lower weight_words, program_words, act_words or acc_columns (--set act_words=...), or take a board with more block RAM",
}


Netlist = dict[str, Any]
"""Yosys's JSON, as nextpnr reads and writes it."""

Planner = Callable[[Board, Netlist, Callable[[Netlist], Netlist]], None]
"""Gives cells of a board's netlist sites (attribute ``BEL``); the third argument returns a netlist as nextpnr places it."""


@dataclass(frozen=True)
class Effort:
    """How much work place and route is to take: nextpnr's options, and whether sites are planned first."""

    options: tuple[str, ...] = ()
    planned: bool = False

    def __str__(self) -> str:
        return " ".join(["floor plan,"] * self.planned + list(self.options))


@dataclass(frozen=True)
class Nextpnr:
    """One family's flow.

    Parameters
    ----------
    program : str
        nextpnr's console script.
    packages : tuple of str
        Distributions that install it and the packer.
    synthesis : str
        Command of Yosys that maps to the family and writes ``top.json``.
    constraints : str
        Suffix of the file of pins.
    options : callable
        nextpnr's options for a board: device, constraints, clock.
    output : tuple of str
        nextpnr's options for what the packer reads.
    efforts : tuple of Effort
        The quickest first; the next is taken when the clock is missed, and the last is kept for further seeds.
    report_cells : Cells
        Of nextpnr's report.
    netlist_cells : Cells
        Of Yosys's netlist; look-up tables are an estimate.
    pack : callable
        The packer and its arguments for a board.
    bitstream : str
        Name of the bitstream.
    thorough_mhz : float
        Clock from which on only the last of the efforts is tried.
    added : callable, optional
        Counts, by resource, what nextpnr adds to Yosys's netlist.
    timing_note : str
        What is to be known of the family's timing; empty where it is modelled in full.
    plain_synthesis : str
        As `synthesis`, without what may fail inside Yosys; empty where there is none.
    planner : Planner, optional
        Of efforts that are planned.
    finish : callable, optional
        Changes Yosys's netlist before it is placed.
    mend : callable, optional
        Adds to nextpnr's detailed report what it leaves out.
    """

    program: str
    packages: tuple[str, ...]
    synthesis: str
    constraints: str
    options: Callable[[Board], list[str]]
    output: tuple[str, ...]
    efforts: tuple[Effort, ...]
    report_cells: Cells
    netlist_cells: Cells
    pack: Callable[[Board], tuple[str, list[str]]]
    bitstream: str
    thorough_mhz: float = math.inf
    added: Callable[[Netlist], dict[str, int]] | None = None
    timing_note: str = ""
    plain_synthesis: str = ""
    planner: Planner | None = None
    finish: Callable[[Netlist], None] | None = None
    mend: Callable[[dict[str, Any]], None] | None = None

    def build(
        self,
        board: Board,
        machine: SerialMachine,
        folder: Path,
        seed: int,
        progress: Progress,
        tries: int = 1,
        result: BuildResult | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> BuildResult:
        """Make a bitstream in `folder`, with netlist, logs and constraints beside it.

        Parameters
        ----------
        board : Board
        machine : SerialMachine
        folder : Path
        seed : int
            Of place and route.
        progress : callable
            Told each stage.
        tries : int
            Runs of place and route, each with more effort or the next seed, before a missed clock is an error.
        result : BuildResult, optional
            Filled in as far as the build comes, also when it fails.
        meanwhile : callable
            Work of the caller's for the second core, done beside synthesis.

        Raises
        ------
        FailedError
            The design does not fit, or misses its clock; the message says by how much and what to lower.
        """
        result = result or BuildResult()
        result.timing_note = self.timing_note

        def beside() -> None:
            meanwhile()
            # its WebAssembly is compiled when it runs for the first time
            run_tool(
                self.program, ["--version"], folder, "place_and_route.log", BuildResult(), self.packages[0]
            )

        self.synthesize(board, machine, folder, result, progress, beside)
        self.place_and_route(board, folder, seed, result, progress, tries)
        progress("pack")
        tool, arguments = self.pack(board)
        run_tool(tool, arguments, folder, "pack.log", result, self.packages[-1])
        return result

    def synthesize(
        self,
        board: Board,
        machine: SerialMachine,
        folder: Path,
        result: BuildResult,
        progress: Progress,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Write constraints and netlist into `folder`, and fill in the resources of `result` as Yosys counts them.

        `meanwhile` is done beside.

        Raises
        ------
        FailedError
            The design does not fit.
        """
        progress("elaborate")
        assert board.platform is not None, board.name
        plan = board.platform().prepare(BoardTop(machine, board), name=NAME, do_program=False)
        for name in (f"{NAME}.il", f"{NAME}{self.constraints}"):
            text = plan.files[name]
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        progress("synthesize")
        lines = read_design(f"{NAME}.il")
        # one module for each row: boards with fewer blocks have none with two rows in a block
        lines += [f"booth *.matrix.dots.column_{row}/t:$mul" for row in board.soft_rows(machine.config)]
        with ThreadPoolExecutor() as pool:
            beside = pool.submit(meanwhile)
            self._map(lines, folder, result, progress)
            beside.result()
        path = folder / f"{NAME}.json"
        netlist = json.loads(path.read_text())
        if self.finish:
            self.finish(netlist)
            path.write_text(json.dumps(netlist))
        counts = self.count_cells(netlist)
        have = dataclasses.asdict(board.resources)
        result.resources = {name: Usage(used, have[name]) for name, used in counts.items()}
        _check_fit(board, counts, "")

    def _map(self, lines: list[str], folder: Path, result: BuildResult, progress: Progress) -> None:
        """Run Yosys, and once more in the plain way where it stops in its own code; the first run's script and log are kept."""
        try:
            run_yosys([*lines, self.synthesis], folder, "synthesis", result)
        except FailedError:
            log = folder / "synthesis.log"
            if not self.plain_synthesis or _CRASH not in log.read_text(errors="replace"):
                raise
            for path in (log, folder / "synthesis.ys"):
                path.rename(path.with_stem("synthesis_that_crashed"))
            progress("synthesize, the plain way: Yosys crashed")
            run_yosys([*lines, self.plain_synthesis], folder, "synthesis", result)

    def place_and_route(
        self, board: Board, folder: Path, seed: int, result: BuildResult, progress: Progress, tries: int
    ) -> None:
        """Place and route the netlist in `folder` until the clock is met.

        Raises
        ------
        FailedError
            It is missed in every one of `tries` runs, or none of them is routed.
        """
        best: Attempt | None = None
        failure: NotRoutedError | None = None
        planned = False
        efforts = self.efforts if board.clock_mhz < self.thorough_mhz else self.efforts[-1:]
        for number in range(tries):
            effort = efforts[min(number, len(efforts) - 1)]
            chosen = seed + max(0, number - len(efforts) + 1)
            if effort.planned and not planned:
                self._plan(board, folder, seed, result, progress)
                planned = True
            netlist = _PLANNED if effort.planned else f"{NAME}.json"
            progress(f"place and route, seed {chosen}")
            detailed = ["--detailed-timing-report"] * bool(self.mend)
            arguments = [*self.output, "--report", "place_and_route.json", *detailed, *effort.options]
            try:
                self._run(board, folder, netlist, chosen, arguments, result)
            except NotRoutedError as error:
                progress(f"not routed: {error.found}")
                failure = error
                continue
            report = self._report(folder)
            attempt = read_report(report, chosen, str(effort))
            result.attempts.append(attempt)
            result.resources = self._used(board, report)
            if best is None or attempt.fmax_mhz > best.fmax_mhz:
                best = attempt
            if attempt.fmax_mhz >= board.clock_mhz:
                break
        if best is None:
            assert failure
            raise failure
        result.fmax_mhz, result.critical_path = best.fmax_mhz, best.critical_path
        _check_clock(board, best, len(result.attempts))

    def _run(
        self, board: Board, folder: Path, netlist: str, seed: int, arguments: list[str], result: BuildResult
    ) -> None:
        common = [*self.options(board), "--json", netlist, "--seed", str(seed), "--timing-allow-fail"]
        run_tool(
            self.program,
            [*common, *arguments],
            folder,
            "place_and_route.log",
            result,
            self.packages[0],
            RouterWatch(),
        )

    def _report(self, folder: Path) -> dict[str, Any]:
        """Return nextpnr's report, mended."""
        path = folder / "place_and_route.json"
        report: dict[str, Any] = json.loads(path.read_text())
        if self.mend:
            self.mend(report)
            path.write_text(json.dumps(report))
        return report

    def _plan(self, board: Board, folder: Path, seed: int, result: BuildResult, progress: Progress) -> None:
        """Write the netlist with sites for some of its cells."""
        progress("floor plan")
        assert self.planner, "an effort that is planned, of a flow without a planner"
        first, placed = folder / "first.json", folder / "placed.json"

        def place(netlist: Netlist) -> Netlist:
            first.write_text(json.dumps(netlist))
            arguments = ["--no-route", "--write", placed.name]
            self._run(board, folder, first.name, seed, arguments, result)
            return cast(Netlist, json.loads(placed.read_text()))

        netlist = json.loads((folder / f"{NAME}.json").read_text())
        self.planner(board, netlist, place)
        (folder / _PLANNED).write_text(json.dumps(netlist))
        for path in (first, placed):
            path.unlink(missing_ok=True)

    def count_cells(self, netlist: Netlist) -> dict[str, int]:
        """Count resources in Yosys's netlist."""
        cells = Counter(cell["type"] for cell in netlist["modules"][NAME]["cells"].values())
        added = self.added(netlist) if self.added else {}
        return {
            name: sum(count * cells[kind] for kind, count in kinds.items()) + added.get(name, 0)
            for name, kinds in self.netlist_cells.items()
        }

    def check_size(self, board: Board, config: AcceleratorConfig) -> None:
        """Raise when a machine cannot fit, whatever the tools do.

        Raises
        ------
        FailedError
            The message says by how much and what to lower.
        """
        _check_fit(board, least(config, board), "at least ")

    def _used(self, board: Board, report: dict[str, Any]) -> dict[str, Usage]:
        """Return the resources in nextpnr's report."""
        used = Counter({kind: int(entry["used"]) for kind, entry in report["utilization"].items()})
        have = dataclasses.asdict(board.resources)
        return {
            name: Usage(sum(count * used[kind] for kind, count in kinds.items()), have[name])
            for name, kinds in self.report_cells.items()
        }


def read_design(file: str) -> list[str]:
    """Return Yosys's commands that read a design from Amaranth, as synthesis is to see it."""
    return [
        f"read_rtlil {file}",
        # assertions are for simulation; synthesis would keep their logic
        "chformal -remove",
        "delete t:$check t:$print",
        # ports that Amaranth makes tell Yosys to return the old word; those of rtl.memory.block_ram, with one of each kind, need not
        "proc",
        "memory_collect",
        "setparam -set RD_COLLISION_X_MASK 1'1 t:$mem_v2 a:no_rw_check=1 %i",
    ]


def least(config: AcceleratorConfig, board: Board) -> dict[str, int]:
    """Count what a machine takes whatever the tools do: its multipliers, and the memories that are too large for anything but block RAM."""
    bits = (config.weight_words + config.act_total_words) * config.lanes * 8
    return {
        "dsp": board.multiplier_style.blocks(config) - len(board.soft_rows(config)) * config.lanes,
        "ram": -(-bits // board.ram_bits),
    }


def _check_fit(board: Board, counts: dict[str, int], prefix: str) -> None:
    """Raise when a resource is exceeded, saying by how much and what to lower; `prefix` says how sure the counts are."""
    for name, used in counts.items():
        available = getattr(board.resources, name)
        if used > available:
            raise FailedError(
                f"the design takes {prefix}{used:,} {name.upper()}, and {board.name} has {available:,}: {used - available:,} too many",
                "a design that fits",
                _REMEDY[name],
            )


def _check_clock(board: Board, attempt: Attempt, runs: int) -> None:
    """Raise when the clock is missed."""
    if attempt.fmax_mhz < board.clock_mhz:
        missing = board.clock_mhz - attempt.fmax_mhz
        raise FailedError(
            f"the design reaches {attempt.fmax_mhz:.1f} MHz on {board.name}, {missing:.1f} MHz short of its clock of "
            f"{board.clock_mhz:g} MHz, in the best of {runs} runs (critical path: {' to '.join(attempt.critical_path) or 'unknown'})",
            "a design that meets its clock",
            "try another --seed or more --tries, or lower rows, lanes or softmax_lanes (--set rows=...), or --clock",
        )
