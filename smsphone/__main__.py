"""Run as ``python3 -m smsphone text "hello"``: what ``smsreply text "hello"`` does."""

import sys

from .command import main

raise SystemExit(main(sys.argv[1:]))
