"""Trace a module to ONNX, and read, count, clean or write ONNX graphs."""
