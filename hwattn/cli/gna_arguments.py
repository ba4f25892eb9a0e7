"""Arguments that the subcommands of ``hwattn gna`` share, under the names of NATTEN's users."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hwattn.cli.output import plain
from hwattn.sim.gna import Pattern
from hwattn.sim.gna.backends import BACKENDS, Backend, get_backend, tile_pairs
from hwattn.sim.gna.gpus import Gpu, get_gpu, gpu_names, make_gpu
from hwattn.sim.gna.permute import PERMUTE_SPEEDUP
from hwattn.sim.gna.timing import DTYPE_BYTES
from hwattn.spec.errors import RefusedError

Tiles = tuple[tuple[int, ...], tuple[int, ...]]
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def truth(text: str) -> bool:
    """Return a bool written as 1, true, yes, 0, false or no; the ``type`` of ``--is-causal``."""
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false") from None


def _integers(parser: Any, names: Sequence[str], text: str, **settings: Any) -> None:
    parser.add_argument(*names, type=int, nargs="+", metavar="N", help=text, **settings)


def add_layout(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--layout``."""
    names = ("-i", "--layout", "--input-size")
    _integers(parser, names, "tokens per axis, last axis fastest", required=required, dest="layout")


def add_window_rules(parser: argparse.ArgumentParser) -> None:
    """Add ``--dilation`` and ``--is-causal``."""
    _integers(parser, ("--dilation",), "step between keys, per axis or one for all (default: 1)", default=[1])
    parser.add_argument(
        "-c",
        "--is-causal",
        "--causal",
        dest="is_causal",
        type=truth,
        nargs="*",
        default=[False],
        metavar="BOOL",
        help="hide later keys, per axis or one for all; without a value: all axes",
    )


def add_pattern(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of :func:`pattern_of`."""
    add_layout(parser)
    names = ("-w", "--window-size", "--kernel-size")
    _integers(parser, names, "keys per axis that a query sees", required=True, dest="window_size")
    _integers(parser, ("-s", "--stride"), "queries that share a window (default: 1)", default=[1])
    add_window_rules(parser)


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """Add ``--q-tile-shape`` and ``--kv-tile-shape``."""
    for which in ("q", "kv"):
        _integers(
            parser,
            (f"--{which}-tile-shape", f"--{which}-tile"),
            f"{which.upper()} tile per axis (default: the backend's)",
            dest=f"{which}_tile_shape",
        )


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add ``--gpu`` and ``--backend``."""
    parser.add_argument(
        "--gpu",
        default="b200",
        metavar="GPU",
        help=f"{', '.join(gpu_names())}, or a YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} (default: what NATTEN chooses for the GPU)"
    )


def add_problem(parser: argparse.ArgumentParser) -> None:
    """Add heads, head_dim, batch, data type and what else times depend on."""
    integer: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("-n", "--heads", default=1, help="query heads (default: 1)", **integer)
    parser.add_argument("--heads-kv", help="KV heads, for grouped queries (default: --heads)", **integer)
    parser.add_argument(
        "-d", "--head-dim", "--dim", dest="head_dim", default=128, help="per head (default: 128)", **integer
    )
    parser.add_argument(
        "-b", "--batch", "--batch-size", dest="batch", default=1, help="(default: 1)", **integer
    )
    parser.add_argument("--dtype", default="fp16", help=f"{', '.join(DTYPE_BYTES)} (default: %(default)s)")
    parser.add_argument("--backward", "--backprop", action="store_true", help="the backward pass")
    parser.add_argument(
        "--natten-version",
        default="0.20",
        help=f"token permutation of this version on: {', '.join(PERMUTE_SPEEDUP)} (default: %(default)s)",
    )


def add_additional_kv(parser: argparse.ArgumentParser) -> None:
    """Add ``--additional-kv``."""
    parser.add_argument(
        "--additional-kv",
        "--add-kv",
        type=int,
        default=0,
        metavar="N",
        help="extra tokens that all queries see",
    )


def add_csv(parser: argparse.ArgumentParser) -> None:
    """Add ``--csv``."""
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows as CSV")


def scalar(values: Sequence[Any]) -> Any:
    """Return one value as a scalar, which is broadcast; several as a tuple."""
    return values[0] if len(values) == 1 else tuple(values)


def causal_of(args: argparse.Namespace) -> Any:
    """Return causality per axis: an empty list means all axes."""
    return scalar(args.is_causal) if args.is_causal else True


def pattern_of(args: argparse.Namespace) -> Pattern:
    """Return the pattern of :func:`add_pattern`."""
    window, stride, dilation = (scalar(v) for v in (args.window_size, args.stride, args.dilation))
    return Pattern(tuple(args.layout), window, stride, dilation, causal_of(args))


def optional_tile(values: Sequence[int] | None) -> Any:
    """Return a tile argument, or None where it was not given."""
    return None if values is None else scalar(values)


def gpu_of(args: argparse.Namespace) -> Gpu:
    """Return the GPU of ``--gpu``: a name, or the description in a YAML file."""
    if Path(args.gpu).suffix.lower() in (".yaml", ".yml"):
        document = load_yaml(Path(args.gpu))
        if not isinstance(document, Mapping):
            raise RefusedError(
                f"{args.gpu} is not a mapping", "fields of a GPU", "see docs/gna.md for an example"
            )
        return make_gpu(document)
    return get_gpu(args.gpu)


def tiles_of(args: argparse.Namespace, pattern: Pattern) -> tuple[Tiles, Backend]:
    """Return the tiles to count: those given, else the default of the backend, of any shape."""
    gpu = gpu_of(args)
    backend = get_backend(gpu, args.backend)
    q_tile, kv_tile = optional_tile(args.q_tile_shape), optional_tile(args.kv_tile_shape)
    default = tile_pairs(backend.name, pattern.rank, gpu.cc)[0]
    tiling = getattr(args, "tiling", None) or backend.tiling
    shapes = pattern.tile_shapes(
        default[0] if q_tile is None else q_tile, default[1] if kv_tile is None else kv_tile, tiling
    )
    return shapes, backend


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises
    ------
    RefusedError
        The file cannot be read, or is not YAML.
    """
    expected, remedy = "a YAML file", "correct the file"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusedError(
            f"{path} cannot be read ({error.strerror})", expected, "correct the path"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RefusedError(f"{path} is not YAML: {reason}", expected, remedy) from error


def write_csv(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; nothing without a path. Tuples become 1x2x3."""
    if path is None:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({name: cell(row.get(name)) for name in columns} for row in rows)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cell(value: Any) -> Any:
    """Return a value as one cell: 18x24x24 for shapes, sentences joined by semicolons."""
    value = plain(value)
    if isinstance(value, list):
        return ("; " if any(isinstance(item, str) for item in value) else "x").join(map(str, value))
    return "" if value is None else value
