"""What the other tests rely on in pytest itself."""

import os

import pytest


@pytest.mark.xdist_group("together")
def test_groups_are_kept_together(request):
    """xdist marks a grouped test's ID; with a pytest that forbids it, groups would be split without a word."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@together")
