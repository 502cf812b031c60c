"""Models as folders, StableHLO programs and ONNX files."""
