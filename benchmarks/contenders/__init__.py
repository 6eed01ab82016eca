"""Who takes part: this project's runtime, torch, and what else people embed with; one file for each."""
