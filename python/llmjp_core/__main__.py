"""`python -m llmjp_core` is `llmjp-core`."""

import sys

from .cli import main

sys.exit(main())
