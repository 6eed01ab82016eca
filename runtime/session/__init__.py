"""Open ONNX Runtime sessions: execution providers, their options, and the choice of a graph."""
