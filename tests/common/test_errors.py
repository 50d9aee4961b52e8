from common.errors import ERROR_CLASSES, InvalidArgument, Violation


def test_a_field_becomes_the_first_violation() -> None:
    error = InvalidArgument(
        "BAD_VALUE", "too small", field="spec.epochs", violations=[Violation("spec.seed", "negative")]
    )
    assert error.field == "spec.epochs"
    assert error.violations == (Violation("spec.epochs", "too small"), Violation("spec.seed", "negative"))
    assert str(error) == "too small [INVALID_ARGUMENT: BAD_VALUE]"


def test_every_class_has_a_code_of_its_own() -> None:
    assert all(cls.code == code for code, cls in ERROR_CLASSES.items())
    assert len(ERROR_CLASSES) == 14
