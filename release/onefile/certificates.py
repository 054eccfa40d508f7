"""Where requests finds the certificates of public authorities; stands in the place of its own requests/certs.py.

May live here: that path. requests leaves this module to those who package it: https://requests.readthedocs.io, "certs".
certifi by itself would write a temporary file at every start.
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
