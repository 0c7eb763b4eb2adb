# SPDX-License-Identifier: GPL-2.0
"""For the scripts in Python: one of them in another."""

import importlib.machinery
import importlib.util
import os
import sys

# Nothing is written into the sources.
sys.dont_write_bytecode = True


def load(name):
    """A script of this directory as a module."""
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(os.path.dirname(__file__), name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module
