"""See e2e/fixtures.py."""

from e2e.fixtures import dump_after_failure, pytest_collection_finish, pytest_runtest_makereport, space

__all__ = ["dump_after_failure", "pytest_collection_finish", "pytest_runtest_makereport", "space"]
