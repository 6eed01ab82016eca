"""Load and verify artifacts: golden vectors, the precision of OpenVINO, stored tuning."""
