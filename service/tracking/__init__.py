"""The copy of the records in MLflow."""
