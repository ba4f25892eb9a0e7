"""Cycles from a command's acceptance to `done`, for every unit: what the hardware does cycle by cycle, as recurrences over its words.

Each function counts from the cycle in which the unit accepts the command, with no stall of a memory port. All are exact for the machine
in ``rtl/``: the per-kind test compares them with co-simulation.
"""

from __future__ import annotations

from functools import cache

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Copy, Format, Instruction, Load, Matmul, Norm, Post, Route, Softmax, Stage2

MATRIX_DRAIN = 7
"""Cycles from the last streamed word to `done`, beside the adder tree's registers."""

MATRIX_SETUP = 2
"""Cycles from acceptance to the first streamed word."""

TREE_LEVELS = 3
"""Levels of the adder tree between registers."""

TRANSPOSER_DEEP = 4
"""Groups of columns that a transposer holds, if a column has at most so many chunks; else half of that."""

REQUANTIZE_CYCLES = 4
ACTIVATION_CYCLES = 5
EXPONENTIAL_CYCLES = 3
POST_FETCH_CYCLES = 3
DIVISION_STEPS = 8
SCALE_CYCLES = 15
ROUTE_DIVISION = 19

DIM_LIMIT = 4096
"""Most elements of a row that a Norm takes."""

NORM_TURN = 20
"""Cycles from a row's last elements until the first ones are read again, to be normalized."""


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def tree_stages(lanes: int) -> int:
    """Registers of the adder tree over `lanes` products."""
    return _ceil((lanes - 1).bit_length(), TREE_LEVELS)


def transposer_groups(rows: int, width: int) -> int:
    """Groups that the transposer of a unit of `width` lanes holds, in a machine of `rows` rows."""
    return TRANSPOSER_DEEP if _ceil(rows, width) <= TRANSPOSER_DEEP else TRANSPOSER_DEEP // 2


def stream_cycles(matmul: Matmul) -> int:
    """Words that a Matmul streams, one per cycle."""
    return matmul.words * matmul.n0 * matmul.n1


def matmul_cycles(matmul: Matmul, config: AcceleratorConfig) -> int:
    """Cycles of a Matmul."""
    return stream_cycles(matmul) + MATRIX_DRAIN + tree_stages(config.lanes)


def load_cycles(load: Load, config: AcceleratorConfig, rows: int) -> int:
    """Cycles of a Load of `rows` rows: one for each granule and each word of zeros."""
    granules = load.n0 * load.n1 * load.n2
    filled = _ceil(granules << load.granule, config.lanes)
    items = granules + load.words - filled
    if load.gather:
        # the token of the next row is asked for when this one's granules begin
        return 9 + (rows - 1) * max(items, 4) + items
    return 7 + rows * items + load.row_first // load.row_wrap


def copy_cycles(copy: Copy) -> int:
    """Cycles of a Copy."""
    return 7 + copy.words


def norm_cycles(norm: Norm, config: AcceleratorConfig) -> int:
    """Cycles of a Norm: sums, scale and lanes work on different rows at the same time, as far as the buffer holds them."""
    groups = _ceil(norm.dim, config.lanes)
    beats_of_group = config.lanes // config.norm_lanes
    beats = groups * beats_of_group
    words = 3 if norm.wide else 1
    sums = max(beats, 2 * groups - 1)
    written = max(beats, beats_of_group + words * (groups - 1)) + words - 1
    period = max(beats, 2 * groups, words * groups, SCALE_CYCLES)
    longest = _ceil(min(DIM_LIMIT, config.norm_words), config.lanes) * beats_of_group
    buffer = 1 << (longest - 1).bit_length()
    # a row's last elements take the places of those of the row `held` before it
    held = buffer // beats
    ends: list[int] = []
    for _ in range(norm.rows):
        end = ends[-1] + period if ends else 0
        if len(ends) >= held:
            end = max(end, ends[-held] + NORM_TURN + beats + held * beats - buffer)
        ends.append(end)
    return 37 + sums + written + ends[-1]


def route_cycles(route: Route, config: AcceleratorConfig) -> int:
    """Cycles of a Route."""
    experts, k = route.experts, route.k
    groups = _ceil(route.rows, config.softmax_lanes)
    search = max(experts + SCALE_CYCLES, k * (experts + 3) + 10)
    group = 3 * experts + search + (k + 1 if route.renormalize else 0) + ROUTE_DIVISION * k
    return groups * group + k * route.rows + (route.clear + route.last) * config.experts + 3


def softmax_cycles(softmax: Softmax, config: AcceleratorConfig) -> int:
    """Cycles of a Softmax: two passes over the scores, and the last words of probabilities."""
    return _softmax(
        softmax.keys,
        _ceil(softmax.rows, config.softmax_lanes),
        softmax.rows * (2 if softmax.p16 else 1),
        config.lanes,
        transposer_groups(config.rows, config.softmax_lanes),
    )


@cache
def _softmax(keys: int, chunks: int, words: int, lanes: int, groups: int) -> int:
    """`words` are written for each group of keys, one per cycle, while later groups are converted."""
    issue = keys * chunks + 3 + REQUANTIZE_CYCLES
    released: list[int] = []
    for first in range(0, keys, lanes):
        if len(released) >= groups:
            issue = max(issue, released[-groups] + 1)
        issue += min(lanes, keys - first) * chunks
        full = issue + 2 + EXPONENTIAL_CYCLES
        begun = max(full, released[-1] + 1) if released else full
        released.append(begun + words - 1)
    return released[-1] + 1


def post_cycles(post: Post, config: AcceleratorConfig, rows: int) -> int:
    """Cycles of a Post of `rows` rows."""
    by_gate = post.stage2 == Stage2.GATE
    delay = POST_FETCH_CYCLES + REQUANTIZE_CYCLES + 1
    if post.activation:
        delay += ACTIVATION_CYCLES + REQUANTIZE_CYCLES
    elif post.stage2 != Stage2.NONE:
        delay += REQUANTIZE_CYCLES
    factors = _reciprocal_times(rows, config.post_lanes) if post.row_scale else None
    if factors is None and by_gate:
        factors = tuple(4 + row for row in range(rows))
    shape = (
        post.columns,
        rows,
        config.post_lanes,
        config.lanes,
        transposer_groups(config.rows, config.post_lanes),
    )
    if post.format == Format.COLUMNS:
        words = _ceil(post.base % config.lanes + rows, config.lanes)
        return _post_columns(shape, delay, factors, words)
    return _post_rows(shape, delay, factors, Format(post.format))


@cache
def _reciprocal_times(rows: int, width: int) -> tuple[int, ...]:
    """Cycles until the reciprocal of each row's sum is known: dividers take turns."""
    dividers = min(width, DIVISION_STEPS)
    loads: list[int] = []
    for row in range(rows):
        load = loads[-1] + 1 if loads else 4
        if row >= dividers:
            load = max(load, loads[-dividers] + DIVISION_STEPS + 1)
        loads.append(load)
    return tuple(load + DIVISION_STEPS + 5 for load in loads)


def _first_column(start: int, rows: int, width: int, factors: tuple[int, ...] | None) -> int:
    """Cycle after the chunks of the first column, which wait for the factors of their rows."""
    for first in range(0, rows, width):
        if factors is not None:
            start = max(start, factors[min(rows, first + width) - 1])
        start += 1
    return start


@cache
def _post_rows(
    shape: tuple[int, int, int, int, int], delay: int, factors: tuple[int, ...] | None, form: Format
) -> int:
    """Groups of columns are written row by row while later ones are filled."""
    columns, rows, width, lanes, groups = shape
    chunks = _ceil(rows, width)
    fetch = 4 if form == Format.RESIDUAL else 1
    store = 1 if form == Format.INT8 else 2
    issue, fetched, stored = 2, 0, 0
    released: list[int] = []
    for first in range(0, columns, lanes):
        if len(released) >= groups:
            issue = max(issue, released[-groups] + 1)
        here = min(lanes, columns - first)
        if not first:
            issue = _first_column(issue, rows, width, factors)
            here -= 1
        issue += here * chunks
        full = issue + delay
        load = 0
        for row in range(rows):
            load = max(full, fetched, 5 + row)
            fetched = max(load + fetch, stored)
            stored = fetched + store
        released.append(load)
    return stored + 1


@cache
def _post_columns(
    shape: tuple[int, int, int, int, int], delay: int, factors: tuple[int, ...] | None, words: int
) -> int:
    """Columns are gathered from their chunks and cut into `words` words while later ones are filled."""
    columns, rows, width, lanes, groups = shape
    chunks = _ceil(rows, width)
    issue, gathered, taken = 2, 0, -words
    released: list[int] = []
    for column in range(columns):
        if column % lanes == 0 and len(released) >= groups:
            issue = max(issue, released[-groups] + 1)
        issue = issue + chunks if column else _first_column(issue, rows, width, factors)
        gathered = max(issue + delay, taken, gathered + 1) + chunks - 1
        if column % lanes == lanes - 1:
            released.append(gathered)
        taken = max(gathered + 1, taken + words)
    return taken + words + 2


def unit_cycles(instruction: Instruction, config: AcceleratorConfig, rows: int) -> int | None:
    """Cycles of an instruction in its unit, or None where they depend on external memory's state or where it is not known.

    Parameters
    ----------
    instruction : Instruction
    config : AcceleratorConfig
    rows : int
        Its rows, lowered to what an expert's queue holds.
    """
    match instruction:
        case Matmul():
            return matmul_cycles(instruction, config)
        case Load():
            return load_cycles(instruction, config, rows)
        case Copy():
            return copy_cycles(instruction)
        case Post():
            return post_cycles(instruction, config, rows)
        case Softmax():
            return softmax_cycles(instruction, config)
        case Norm():
            return norm_cycles(instruction, config)
        case Route():
            return route_cycles(instruction, config)
    return None
