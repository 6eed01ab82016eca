"""Read meshes: file formats, and the triangles of what they hold."""
