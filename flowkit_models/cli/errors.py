"""Error messages: one line of an exception, and the exception of a wrong command line."""


class UsageError(Exception):
    """A command line that makes no sense. No ValueError, which tyro would wrap in a message of its own."""


def one_line(error: BaseException) -> str:
    """The message of an exception, in one line; of an unforeseen one, its type as well."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    foreseen = isinstance(error, UsageError | ValueError | OSError | ImportError) and text
    return text if foreseen else f"{type(error).__name__}: {text}".removesuffix(": ")
