"""Mutated ONNX files through ``import_onnx``: each is imported or refused; never a traceback, a hang or a stray file.

    PYTHONPATH=. python bench/fuzz_import.py --count 500

Needs torch (the extra `train`) for the files to mutate. Exit code 1 where anything else happens.
"""

from __future__ import annotations

import argparse
import collections
import copy
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from hwattn.quant.importer import import_onnx
from hwattn.spec.errors import RefusedError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "quant"))

from torch_vits import Block, MoEViT, PostNorm, ViT, export

SECONDS = 60
"""Longest time for one file."""

MEMORY = 6 << 30
"""Bytes of address space for the whole run."""

Model = onnx.ModelProto


def flip(model: Model, rng: random.Random) -> bytes:
    """Bytes flipped."""
    data = bytearray(model.SerializeToString())
    for _ in range(rng.choice([1, 4, 32])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(model: Model, rng: random.Random) -> bytes:
    """The file cut short."""
    data = model.SerializeToString()
    return data[: rng.randrange(len(data))]


def drop(model: Model, rng: random.Random) -> bytes:
    """Nodes dropped."""
    for _ in range(rng.choice([1, 2, 5])):
        del model.graph.node[rng.randrange(len(model.graph.node))]
    return model.SerializeToString()


def reshape(model: Model, rng: random.Random) -> bytes:
    """Shapes of weights or inputs changed, also to absurd ones."""
    tensor = rng.choice(model.graph.initializer)
    if rng.random() < 0.5 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, 1, -1, 7, 2**31, 2**62])
    else:
        size = rng.choice(model.graph.input[0].type.tensor_type.shape.dim)
        size.dim_value = rng.choice([1, 3, 5, 1000, 2**20, 2**40])
    return model.SerializeToString()


def cycle(model: Model, rng: random.Random) -> bytes:
    """A node reads what comes behind it."""
    nodes = [node for node in model.graph.node if node.input]
    early, late = sorted(rng.sample(range(len(nodes)), 2))
    nodes[early].input[rng.randrange(len(nodes[early].input))] = nodes[late].output[0]
    return model.SerializeToString()


def outside(model: Model, rng: random.Random) -> bytes:
    """External data that leaves the folder, or is absurdly large."""
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = rng.choice(["../../../../etc/passwd", "/etc/passwd", "absent.bin", "..", "a/../../b"])
    for key, value in (("location", place), ("length", str(rng.choice([4, 2**60]))), ("offset", "0")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


def rewire(model: Model, rng: random.Random) -> bytes:
    """Inputs of nodes swapped for other tensors."""
    names = [name for node in model.graph.node for name in node.output]
    names += [tensor.name for tensor in model.graph.initializer]
    for _ in range(rng.choice([1, 3])):
        node = rng.choice([node for node in model.graph.node if node.input])
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    return model.SerializeToString()


def retype(model: Model, rng: random.Random) -> bytes:
    """Other operators and attributes."""
    node = rng.choice(model.graph.node)
    if rng.random() < 0.5 or not node.attribute:
        node.op_type = rng.choice(
            ["Relu", "MatMul", "Einsum", "If", "Conv", "Softmax", "Nonsense", "TopK", ""]
        )
    else:
        attribute = rng.choice(node.attribute)
        if attribute.HasField("i"):
            attribute.i = rng.choice([-1, 0, 2**40, 99])
        elif attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([-5, 0, 2**40, 3])
        elif attribute.HasField("f"):
            attribute.f = rng.choice([float("nan"), float("inf"), -1.0, 1e30])
    return model.SerializeToString()


def large(model: Model, rng: random.Random) -> bytes:
    """A constant that asks for far too much memory."""
    name, shape = rng.choice(model.graph.initializer).name, [2**16, 2**16, 2**10]
    node = helper.make_node("ConstantOfShape", ["absurd"], ["filled"])
    model.graph.initializer.append(helper.make_tensor("absurd", TensorProto.INT64, [len(shape)], shape))
    model.graph.node.insert(0, node)
    model.graph.node[rng.randrange(1, len(model.graph.node))].input[:] = [name, "filled"]
    return model.SerializeToString()


MUTATIONS: list[Callable[[Model, random.Random], bytes]] = [
    flip,
    cut,
    drop,
    reshape,
    cycle,
    outside,
    rewire,
    retype,
    large,
]


def _late(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def attempt(path: Path) -> str:
    """What became of a file; `imported`, `refused`, or a traceback."""
    signal.alarm(SECONDS)
    try:
        return "imported" if import_onnx(path).graph is not None else "refused"
    except RefusedError:
        return "refused"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)


def main() -> int:
    """Mutate, import, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _late)
    rng = random.Random(args.seed)
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        made = [ViT(Block()), MoEViT("plain"), ViT(PostNorm(), pool="mean")]
        bases = [onnx.load(export(model, folder / f"base{i}.onnx")) for i, model in enumerate(made)]
        for number in range(args.count):
            mutation = MUTATIONS[number % len(MUTATIONS)]
            path = folder / "m.onnx"
            path.write_bytes(mutation(copy.deepcopy(rng.choice(bases)), rng))
            began = time.perf_counter()
            result = attempt(path)
            slowest = max(slowest, time.perf_counter() - began)
            counts[result if result in ("imported", "refused") else "failed"] += 1
            if result not in ("imported", "refused"):
                failures.append(f"{number} {mutation.__name__}\n{result}")
        strays = [one for one in Path(name).rglob("*") if one.parent != folder and one != folder]
    for failure in failures:
        print(failure)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.count} files: {dict(counts)}; slowest {slowest:.1f} s; peak memory {peak:.2f} GiB; strays {strays}"
    )
    return 1 if failures or strays else 0


if __name__ == "__main__":
    raise SystemExit(main())
