"""Draw the plots of a tower as SVG: no script, one set of colours for light and dark mode, titles on hover."""

from benchmarks.report.plots.bars import parity_plot, steps_plot
from benchmarks.report.plots.scatter import latency_plots, roofline_plot, throughput_plot
from benchmarks.report.plots.svg import Plot

__all__ = ["Plot", "latency_plots", "parity_plot", "roofline_plot", "steps_plot", "throughput_plot"]
