import pytest

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown


class Method:
    def __init__(self, params, lr, *, rho=0.1, base="sgd", **rest): ...


def test_keywords_are_the_named_arguments():
    assert keywords(Method) == ["rho", "base"]


def test_refuse_unknown_names_the_argument_and_the_valid_ones():
    refuse_unknown("Method", {"rho": 1}, keywords(Method))
    with pytest.raises(ValueError, match=r"^Method: arguments must be among lr, base, rho, got 'roh'$"):
        refuse_unknown("Method", {"roh": 1}, keywords(Method))


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_check_nonnegative(value):
    check_nonnegative("Method", lr=0, rho=0.5)
    with pytest.raises(ValueError, match=rf"^Method: rho must be >= 0 and finite, got {value}$"):
        check_nonnegative("Method", lr=0, rho=value)
