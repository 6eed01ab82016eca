"""Read, check and describe an artifact: the manifest and the files beside it."""
