"""Read weights that no model family owns: state dicts, model folders, the hub, Finetuner runs."""
