"""Errors as lines."""


class UsageError(ValueError):
    """A command line that makes no sense."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line; of one that nobody foresaw, its type as well."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    foreseen = isinstance(error, ValueError | OSError | ModuleNotFoundError) and text
    return text if foreseen else f"{type(error).__name__}: {text}".removesuffix(": ")
