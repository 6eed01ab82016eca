"""PointNet++ of Finetuner."""
