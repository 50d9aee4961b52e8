"""What users write about a run: its display name, its note and its tags."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from common.errors import InvalidArgument

MAX_NAME, MAX_NOTE, MAX_KEY, MAX_VALUE, MAX_TAGS = 200, 10_000, 100, 500, 100


@dataclass(frozen=True)
class Labels:
    """A change of a run's labels.

    Attributes:
        display_name: New name for people; None to leave it unchanged.
        note: New note; None to leave it unchanged.
        set_tags: Tags to add or replace, as pairs of key and value.
        remove_tags: Keys of tags to remove.
    """

    display_name: str | None = None
    note: str | None = None
    set_tags: Sequence[tuple[str, str]] = ()
    remove_tags: Collection[str] = ()

    def check(self) -> None:
        """Checks that the texts can be stored and are not too long, and that the keys are usable and distinct.

        Raises:
            InvalidArgument: BAD_VALUE.
        """
        _check_text(self.display_name or "", MAX_NAME, "display_name")
        _check_text(self.note or "", MAX_NOTE, "note")
        seen: set[str] = set()
        for i, (key, value) in enumerate(self.set_tags):
            where = f"set_tags[{i}]"
            _check_text(key, MAX_KEY, f"{where}.key")
            _check_text(value, MAX_VALUE, f"{where}.value")
            if not key or "=" in key or key in seen:
                problem = "appears twice" if key in seen else "is not a key; a key is not empty and contains no `=`"
                raise InvalidArgument("BAD_VALUE", f"{key!r} {problem}", field=f"{where}.key")
            seen.add(key)

    def tags(self, before: Mapping[str, str]) -> dict[str, str]:
        """Returns the tags after the change, sorted by key.

        Raises:
            InvalidArgument: BAD_VALUE if there would be too many tags.
        """
        changed = {key: value for key, value in before.items() if key not in self.remove_tags} | dict(self.set_tags)
        if len(changed) > MAX_TAGS:
            message = f"the run would have {len(changed)} tags; at most {MAX_TAGS} are allowed"
            raise InvalidArgument("BAD_VALUE", message, field="set_tags")
        return dict(sorted(changed.items()))


def _check_text(text: str, limit: int, field: str) -> None:
    if len(text) > limit:
        message = f"the text has {len(text)} characters; at most {limit} are allowed"
        raise InvalidArgument("BAD_VALUE", message, field=field)
    if "\0" in text:
        message = "the text contains the character NUL, which cannot be stored; remove it"
        raise InvalidArgument("BAD_VALUE", message, field=field)
