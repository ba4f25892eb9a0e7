"""ONNX in: importer, calibration and post-training quantization."""
