"""Resumable embedding jobs of one process, and their input and output files.

``run`` embeds the items that ``inputs`` reads, records progress in ``journal`` and ``vector_file``, and writes a
``.npy``, ``.npz`` or ``.parquet`` file with ``outputs``. ``read_vectors`` reads these files.
"""
