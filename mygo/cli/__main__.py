import sys

from mygo.cli import main

sys.exit(main())
