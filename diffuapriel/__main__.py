"""`python -m diffuapriel` is the `diffuapriel` command."""

import sys

from diffuapriel.cli import main

sys.exit(main())
