"""Build optimized, fp16 and int8 variants of an artifact, and check their accuracy before they are added."""
