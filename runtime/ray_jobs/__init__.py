"""The job of ``python -m runtime embed --engine ray``: past one machine, on Ray Data.

sources      the inputs, as every machine of the cluster sees them
pieces       the inputs cut into ranges of rows
ray_worker   an actor, which embeds a piece and writes its part
parts        a part of the output, written whole or not at all
places       paths and URIs
ray_cluster  joining or starting a cluster, and leaving nothing behind
on_ray       the job itself
"""
