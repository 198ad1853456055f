"""SOURCE_DATE_EPOCH: the date that whatever is made here carries instead of the clock's."""

from __future__ import annotations

import os
import re

from builder.errors import InputError


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH in seconds since 1970, None where it is not set (reproducible-builds.org's specification).

    At most what 32 bits hold (the year 2106): FAT's dates end a year later. Raises InputError.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 1 << 32:
        raise InputError(
            f"SOURCE_DATE_EPOCH={text!r}: not a date in seconds since 1970", hint="a whole number, or unset it"
        )
    return int(text)
