"""Embedding jobs on a Ray cluster, for ``python -m runtime embed --engine ray``.

``job`` cuts the files that ``input_files`` finds into ``shards``. Ray Data hands each shard to a worker of ``actor``,
which writes one file of the ``output``. ``cluster`` joins or starts the cluster; ``storage`` opens paths and URIs.
"""
