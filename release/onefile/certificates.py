"""Returns the path of the CA certificates to requests. The build installs it as requests/certs.py.

requests documents this module as the place for packagers to change (https://requests.readthedocs.io, "certs"). certifi
itself would write a temporary file at every start.
"""

from __future__ import annotations

import sys
from functools import cache
from zipimport import zipimporter

from onefile.memory import path_of

_BUNDLE = "certifi/cacert.pem"


@cache
def where() -> str:
    """Return the path of a file with all certificates."""
    return path_of(zipimporter(sys.path[0]).get_data(_BUNDLE))
