"""Read meshes: file formats and triangles."""
