"""Load an artifact: verification by golden vectors, OpenVINO's precision, stored tuning."""
