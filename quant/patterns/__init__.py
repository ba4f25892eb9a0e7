"""Handlers of ONNX operators: each turns the values of a node's inputs into values of its outputs."""
