"""Run as ``python3 -m smsphone text "hello"``: what ``smsreply text "hello"`` does."""

from .command import main

raise SystemExit(main())
