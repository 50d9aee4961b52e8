import pickle

from common.errors import ERROR_CLASSES, Internal, InvalidArgument, Violation


def test_a_field_becomes_the_first_violation() -> None:
    error = InvalidArgument(
        "BAD_VALUE", "too small", field="spec.epochs", violations=[Violation("spec.seed", "negative")]
    )
    assert error.field == "spec.epochs"
    assert error.violations == (Violation("spec.epochs", "too small"), Violation("spec.seed", "negative"))
    assert str(error) == "too small [INVALID_ARGUMENT: BAD_VALUE]"


def test_an_error_can_be_sent_to_another_process() -> None:
    error = InvalidArgument("BAD_VALUE", "too small", field="a", violations=[Violation("b", "c")], retry_delay_s=2)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (InvalidArgument, str(error), vars(error))


def test_every_class_has_a_code_of_its_own() -> None:
    assert all(cls.code == code for code, cls in ERROR_CLASSES.items())
    assert len(ERROR_CLASSES) == 14


def test_a_message_has_no_terminal_codes_whoever_wrote_it() -> None:
    written = "\x1b[1;31mstep 1\x1b[0m\x00 of \x1b]8;;http://x\x1b\\3\x1b]8;;\x07\r\n\tünïcode 日本"
    for error in (Internal("CRASHED", written), InvalidArgument("BAD_VALUE", written, field="spec.model")):
        assert error.message == "step 1 of 3\n\tünïcode 日本"
        assert all(violation.description == error.message for violation in error.violations)
