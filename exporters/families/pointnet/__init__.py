"""PointNet++ for meshes and point clouds."""
