import pytest

from service.records.passwords import hide_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("postgresql+psycopg://me:se/cr@et:x@host/db", "postgresql+psycopg://me:***@host/db"),
        ("--study-uri=postgresql://me:secret@host/db", "--study-uri=postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&connect_timeout=3", "postgresql://host/db?user=me&password=***"),
        ("no answer from http://me:secret@host/a, try again", "no answer from http://me:***@host/a, try again"),
        ("MLFLOW_TRACKING_PASSWORD=secret", "MLFLOW_TRACKING_PASSWORD=***"),
    ],
)
def test_passwords_are_hidden(text, shown):
    hidden = hide_passwords(text)
    assert hidden.startswith(shown)
    assert "secret" not in hidden
    assert "et:x" not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000",
        "sqlite:////a/b c/mlflow.db",
        "lr=0.1",
        "user@host:/folder",
        "http://me@host",
        "see http://h:1",
    ],
)
def test_other_text_is_unchanged(text):
    assert hide_passwords(text) == text
