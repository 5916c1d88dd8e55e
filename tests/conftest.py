"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, print_blob=True)  # a busy machine is no failure
settings.load_profile("suite")
