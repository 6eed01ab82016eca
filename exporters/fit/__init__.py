"""Fine-tune a model on your data with sentence-transformers' trainer, and export the result.

from exporters.fit import FitOptions, fit
done = fit("bert-base-en", "pairs.csv", options=FitOptions(val_split=0.1))

Importing this package does not import torch.
"""

from exporters.fit.options import FitOptions
from exporters.fit.report import FitReport
from exporters.fit.run import Fit, fit

__all__ = ["Fit", "FitOptions", "FitReport", "fit"]
