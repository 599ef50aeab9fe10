import pytest

from trainables.errors import first_line, one_line


@pytest.mark.parametrize(
    ("error", "line", "first"),
    [
        (RuntimeError("one\n  two\tthree"), "RuntimeError: one two three", "one"),
        (ValueError("x"), "ValueError: x", "x"),
        (MemoryError(), "MemoryError: ", "MemoryError"),
        (KeyError("name"), "KeyError: 'name'", "'name'"),
    ],
)
def test_errors_as_one_line(error, line, first):
    assert one_line(error) == line
    assert first_line(error) == first
