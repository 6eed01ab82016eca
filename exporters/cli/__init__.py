"""The command line of ``python -m exporters``. Its help and the command ``list`` do not import torch."""
