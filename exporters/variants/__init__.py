"""Build optimized, fp16, int8 and compact variants of an artifact, and check their accuracy before they are added."""
