import pytest

from trainables.arguments import construct


def make(first, given, needed, *, optional=2):
    return (first, given, needed, optional)


def test_arguments_are_passed_on():
    assert construct("opt", make, 1, given=2, arguments={"needed": 3}) == (1, 2, 3, 2)
    assert construct("opt", make, 1, given=2, arguments={"needed": 3, "optional": 4}) == (1, 2, 3, 4)


@pytest.mark.parametrize("argument", ["unknown", "first", "given"])  # the caller gives the last two itself
def test_other_arguments_are_refused(argument):
    with pytest.raises(ValueError, match=f"^opt: arguments of make must be among needed, optional, got '{argument}'$"):
        construct("opt", make, 1, given=2, arguments={"needed": 3, argument: 4})


def test_a_missing_argument_is_named():
    with pytest.raises(ValueError, match=r"^opt: arguments of make must include needed, got \{'optional': 4\}$"):
        construct("opt", make, 1, given=2, arguments={"optional": 4})


def test_an_argument_of_a_wrong_type():
    def halve(x):
        return x / 2

    with pytest.raises(
        ValueError, match=r"^opt: arguments must be what halve takes, got \{'x': 'one'\} \(unsupported op"
    ):
        construct("opt", halve, arguments={"x": "one"})
