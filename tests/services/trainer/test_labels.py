"""Labels that cannot be stored are refused, with the field that is at fault."""

import pytest

from common.errors import InvalidArgument
from services.trainer.labels import Labels


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        (Labels(display_name="a\0b"), "display_name"),
        (Labels(note="\0"), "note"),
        (Labels(set_tags=[("a", "b"), ("a\0", "b")]), "set_tags[1].key"),
        (Labels(set_tags=[("a", "b\0")]), "set_tags[0].value"),
    ],
)
def test_a_text_with_nul_is_refused(labels: Labels, field: str) -> None:
    with pytest.raises(InvalidArgument, match="character NUL") as caught:
        labels.check()
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)
