"""Hiding passwords in what is shown, logged or recorded."""

import re

__all__ = ["HIDDEN", "hide_passwords"]

HIDDEN = "***"

# SQLAlchemy's URL.render_as_string(hide_password=True) takes one whole URL. Command lines and error messages contain
# URLs in the middle of other text, and libpq and MLflow's databases also accept the password as a parameter.
# Up to the last @ of the word: a password may contain ":", "/" and "@".
USER_INFO = re.compile(r"(://[^/@:\s]*):\S*@")
PARAMETER = re.compile(r"(?i)(password|passwd|pwd)=[^&;\s]+")


def hide_passwords(text: str) -> str:
    """Replace every password in a text by `***`.

    A password is what follows the user name in a URL (`http://user:***@host`) or `password=`.

    Args:
        text: A URL, a word of a command line, or a message that contains URLs.
    """
    return PARAMETER.sub(rf"\1={HIDDEN}", USER_INFO.sub(rf"\1:{HIDDEN}@", text))
