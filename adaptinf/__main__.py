"""``python -m adaptinf`` is the ``adaptinf`` command."""

from __future__ import annotations

import sys

from adaptinf.cli import main

sys.exit(main())
