"""Build optimized, fp16 and int8 variants of an artifact, and hold them to the gate."""
