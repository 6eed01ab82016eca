"""Trace a module to ONNX, and read or write ONNX files."""
