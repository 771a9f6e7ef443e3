"""The one kind of error that is the user's to put right. Imports nothing."""


class InputError(Exception):
    """Something the user can put right; commands show it as one line and exit with code 2."""
