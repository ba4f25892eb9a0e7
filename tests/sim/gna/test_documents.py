"""Documents from users (workloads, sweeps, GPUs): whatever they hold, a result or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.sim.gna import project
from hwattn.sim.gna.gpus import Gpu, make_gpu
from hwattn.sim.gna.pattern import Pattern
from hwattn.sim.gna.sweeps import expand, run_sweep
from hwattn.sim.gna.workloads import get_workload, make_workload, project_workload
from hwattn.spec.errors import RefusedError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.floats(allow_nan=True),
    st.sampled_from(["", "b200", "fp16", "x"]),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(st.integers(-1, 40), max_size=4),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=1),
)
GOOD: dict[str, Any] = {"layout": [16, 24], "window": 8, "heads": 2, "head_dim": 64}
FIELDS = st.sampled_from(
    ["layout", "window", "stride", "dilation", "is_causal", "heads", "heads_kv", "head_dim", "batch", "dtype",
     "q_tile", "kv_tile", "additional_kv", "count", "name", "steps", "dense_steps", "attention_share", "gpu",
     "backend", "backward", "natten_version", "other"]
)  # fmt: skip
GPU = {
    "name": "x",
    "cc": 90,
    "sms": 100,
    "fp16_tflops": 500.0,
    "hbm_gbs": 2000,
    "boost_mhz": 1500,
    "like": "h100",
}
GPU_FIELDS = st.sampled_from(
    [*GPU, "copy_gbs", "link_gbs", "dense_tflops", "calibrated_on", "source", "other"]
)


@settings(deadline=None, max_examples=100)
@given(FIELDS, VALUES)
def test_sweeps(field: str, value: Any) -> None:
    try:
        rows = run_sweep({"runs": [{**GOOD, field: value}]})
    except RefusedError:
        pass
    else:
        assert rows[0]["total_ms"] > 0


@settings(deadline=None, max_examples=100)
@given(FIELDS, VALUES, st.booleans())
def test_workloads(field: str, value: Any, outside: bool) -> None:
    document: dict[str, Any] = {**GOOD, "layers": [{"count": 2}]}
    (document if outside else document["layers"][0])[field] = value
    try:
        shown = project_workload(make_workload(document), "h100")
    except RefusedError:
        pass
    else:
        assert shown.attention_ms > 0


@settings(deadline=None, max_examples=100)
@given(GPU_FIELDS, VALUES)
def test_gpus(field: str, value: Any) -> None:
    try:
        gpu = make_gpu({**GPU, field: value})
        shown = project(Pattern(32, 8), gpu, heads=1, head_dim=64)
    except RefusedError:
        pass
    else:
        assert isinstance(gpu, Gpu) and shown.total_ms > 0


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_documents_of_any_kind(value: Any) -> None:
    for make in (make_workload, expand):
        for document in (value, {"layers": value, "runs": value}, {"grid": value}, {"defaults": value}):
            with pytest.raises(RefusedError):
                make(document)


def test_cosmos_predict2_has_its_layers() -> None:
    for name, layers in (("cosmos-predict2-2b", 28), ("cosmos-predict2-14b", 36)):
        workload = get_workload(name)
        assert sum(layer.count for layer in workload.layers) == layers
        sparsities = {round(layer.pattern.sparsity, 2) for layer in workload.layers}
        # of each layer, as the comments of its configuration say
        assert {0.98, 0.95, 0.92, 0.77, 0.55} <= sparsities
