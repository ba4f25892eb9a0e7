"""Import of DeiT-Base (86 million parameters): seconds of wall clock and of processor time, and peak memory.

    PYTHONPATH=. python bench/import_deit_base.py

The file is made in another process, so that torch's memory does not count. Needs the extra `train` and timm
(``pip install --no-deps -r requirements/models.txt``).
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPORT = """
import sys
sys.path.insert(0, {tests!r})
import torch
from library_models import timm
torch.manual_seed(0)
model = timm().create_model("deit_base_patch16_224", pretrained=False).eval()
axes = {{"x": {{0: "N"}}, "y": {{0: "N"}}}}
torch.onnx.export(model, (torch.zeros(2, 3, 224, 224),), {path!r}, input_names=["x"], output_names=["y"],
                  dynamic_axes=axes, opset_version=17, dynamo=False)
"""


def main() -> int:
    """Export, import, print."""
    tests = str(Path(__file__).parents[1] / "tests" / "quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deit_base.onnx"
        subprocess.run([sys.executable, "-c", EXPORT.format(tests=tests, path=str(path))], check=True)
        from hwattn.quant.importer import import_onnx

        wall, cpu = time.perf_counter(), time.process_time()
        report = import_onnx(path)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    nodes = len(report.graph.nodes) if report.graph else 0
    print(
        f"DeiT-Base: {nodes} nodes, {report.parameters:,} parameters; {wall:.1f} s of wall clock, {cpu:.1f} s of "
        f"processor time, peak memory {peak:.2f} GiB"
    )
    return 0 if report.graph else 1


if __name__ == "__main__":
    raise SystemExit(main())
