"""`python -m inception_np` is `inception-np`."""

import sys

from .cli import main

sys.exit(main())
