"""Lay an artifact out as other runtimes and search engines expect it. No module here imports torch."""
