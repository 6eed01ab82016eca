"""Report the installation, the execution providers that really run a graph, and advice for each problem."""

from runtime.doctor.advice import find_advice
from runtime.doctor.collect import examine
from runtime.doctor.render import render_json, render_text
from runtime.doctor.report import DoctorReport

__all__ = ["DoctorReport", "examine", "find_advice", "render_json", "render_text"]
