"""ONNX → ONNX, one small file each. Their order stands in `compiler/pipeline.py` only."""
