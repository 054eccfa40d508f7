"""Entry point of the agent's single file. Every Python 3 can parse it, so that an old version gets a clear message."""

import sys

_TOO_OLD = "kattila-agent: {} is Python {}, but 3.11 or newer is needed: run it with a newer one, as in python3.11 {}\n"

if sys.version_info < (3, 11):  # noqa: UP036 - the node may have an older python3
    sys.stderr.write(_TOO_OLD.format(sys.executable, sys.version.split()[0], sys.argv[0]))
    sys.exit(1)

from onefile.start import start  # noqa: E402 - an older Python cannot parse it

sys.exit(start(sys.argv[1:]))
