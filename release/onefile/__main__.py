"""The first lines that run in the one file; any Python can read them, so that an old one gets a sentence.

May live here: that sentence, and the call. Not here: what the one file does (onefile.start).
"""

import sys

_NEEDED = "kattila-agent: Python 3.11 or newer is needed, and {} is {}: run this file with a newer one, python3.11 {}\n"

if sys.version_info < (3, 11):  # noqa: UP036 - the python3 of a node is not ours to choose
    sys.stderr.write(_NEEDED.format(sys.executable, sys.version.split()[0], sys.argv[0]))
    sys.exit(1)

from onefile.start import start  # noqa: E402 - only for a Python that can read it

sys.exit(start(sys.argv[1:]))
