"""The tuner's resource names."""

from common.errors import InvalidArgument
from common.names import parse

STUDY_PATTERN = "studies/{}"
TRIAL_PATTERN = "studies/{}/trials/{}"


def study_name(study_id: str) -> str:
    """Returns the resource name of a study."""
    return f"studies/{study_id}"


def trial_name(study_id: str, number: int) -> str:
    """Returns the resource name of a trial."""
    return f"studies/{study_id}/trials/{number}"


def parse_study(name: str, *, field: str = "name") -> str:
    """Returns the id in the resource name of a study.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (study_id,) = parse(name, STUDY_PATTERN, field=field)
    return study_id


def parse_trial(name: str, *, field: str = "name") -> tuple[str, int]:
    """Returns the id of the study and the number in the resource name of a trial.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    study_id, number = parse(name, TRIAL_PATTERN, field=field)
    if not number.isdecimal() or len(number) > 9 or str(int(number)) != number:
        message = f"{number!r} is not the number of a trial; numbers start at 1"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return study_id, int(number)
