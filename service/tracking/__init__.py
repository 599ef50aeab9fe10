"""Copying a sweep's records to MLflow, and showing them; the only package that imports mlflow."""
