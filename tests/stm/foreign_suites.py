"""Tests that others have written, on our event loops: ``foreign_suites.py asyncio|twisted MODULE ...``."""

import asyncio
import sys
import unittest


def run_asyncio(modules: list[str]) -> None:
    """CPython's own, with our loop wherever they make the default one or a SelectorEventLoop."""
    from bloomgate import aio

    asyncio.SelectorEventLoop = aio.EventLoop
    asyncio.unix_events._UnixDefaultEventLoopPolicy._loop_factory = aio.EventLoop
    unittest.main(module=None, argv=["unittest", *(f"test.test_asyncio.{module}" for module in modules)])


def run_twisted(modules: list[str]) -> None:
    """Twisted's own, by trial."""
    from bloomgate import txreactor

    txreactor.install()
    from twisted.scripts.trial import run

    sys.argv = ["trial", "--reporter=text", *modules]
    run()


if __name__ == "__main__":
    {"asyncio": run_asyncio, "twisted": run_twisted}[sys.argv[1]](sys.argv[2:])
