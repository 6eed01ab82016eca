"""Choose calibration items, and measure the values that a graph's tensors take on them."""
