"""What is installed, which providers really run a graph here, and one line of advice for each problem."""

from runtime.doctor.advice import find_advice
from runtime.doctor.collect import examine
from runtime.doctor.render import describe_report, report_to_json
from runtime.doctor.report import Report

__all__ = ["Report", "describe_report", "examine", "find_advice", "report_to_json"]
