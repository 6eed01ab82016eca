"""Provide sample texts, photos and point clouds without any download."""
