"""docs/security.md says what is tried."""

from tests.table import PAGE, drift


def test_the_page_says_what_is_tried():
    """`make security` writes it anew."""
    assert list(drift(PAGE.read_text())) == []
