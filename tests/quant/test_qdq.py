"""Export as QDQ ONNX: onnxruntime's result against the integer model."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from hwattn.quant.importer import graph_of
from hwattn.quant.qdq import OPSET, to_qdq
from hwattn.quant.quantizer import quantize
from hwattn.quant.simulate import simulate

pytest.importorskip("torch")

from torch import nn
from torch_vits import IMAGE, Block, Mlp, MoEViT, PostNorm, RMSNorm, ViT, export


class StemPostNorm(ViT):
    """Post-norm blocks behind a LayerNorm, as in BERT."""

    def __init__(self) -> None:
        super().__init__(PostNorm(), pool="cls")
        self.first = nn.LayerNorm(12)

    def tokens(self, image):
        return super().tokens(image)

    def features(self, image):
        return self.norm(self.blocks(self.first(self.tokens(image))))


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: ViT(Block(), Block(mlp=Mlp(nn.SiLU()))), 1),
        (lambda: MoEViT("plain", 2), 2),
        (lambda: MoEViT("chosen"), 1),
        (StemPostNorm, 1),
        (lambda: ViT(Block(norm=RMSNorm), Block(norm=RMSNorm)), 1),
    ],
)
def test_agrees_with_the_integer_model(make, inputs, tmp_path) -> None:
    graph = graph_of(export(make(), tmp_path / "m.onnx", inputs=inputs))
    rng = np.random.default_rng(0)
    calibration, images = (rng.standard_normal((n, *IMAGE)).astype(np.float32) for n in (64, 16))
    model = quantize(graph, calibration, "m").model
    proto = to_qdq(model)
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") > len(model.nodes) / 2
    assert {entry.domain for entry in proto.opset_import} == {""} and proto.opset_import[0].version == OPSET
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    # without it onnxruntime's fused int8 products saturate in 16 bits on x86 processors without VNNI
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    for task in range(model.tasks):
        feeds = {model.image: images}
        if model.task_input:
            feeds[model.task_input] = np.array(task)
        names = [o.name for o in model.outputs if o.task in (None, task)]
        tensors = simulate(model, images, task).tensors
        for name, found in zip(names, session.run(names, feeds), strict=True):
            output = next(one for one in model.outputs if one.name == name)
            wanted = tensors[output.tensor].reshape(found.shape)
            signal, noise = np.square(wanted).mean(), np.square(wanted - found).mean()
            # a step of rounding here and there, where floating point and integers fall on either side
            assert signal > 1000 * noise, (name, 10 * np.log10(signal / noise))


def test_weights_are_the_models_own(tmp_path) -> None:
    graph = graph_of(export(ViT(), tmp_path / "m.onnx"))
    images = np.random.default_rng(0).standard_normal((16, *IMAGE)).astype(np.float32)
    model = quantize(graph, images, "m").model
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in to_qdq(model).graph.initializer]
    for node in model.nodes:
        if hasattr(node, "matrix"):
            assert any(
                array.dtype == np.int8 and np.array_equal(array.T, node.matrix.weight) for array in arrays
            )
            assert any(np.array_equal(array, node.matrix.bias) for array in arrays)
