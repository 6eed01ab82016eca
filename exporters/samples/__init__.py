"""Texts, photos and point clouds that ship with the exporters."""
