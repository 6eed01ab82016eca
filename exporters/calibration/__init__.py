"""Calibration items, and the value ranges that tensors take on them."""
