"""``vllm bench serve``, unchanged, also where its command line does not start.

    python -m benchmarks.load.vllm_bench --backend openai-chat --endpoint /v1/chat/completions ...

vLLM's CPU build is installed under another name, and ``vllm`` then does not find its own version. What it
would call is called here, with its own options and its own parser.
"""

from __future__ import annotations

import sys

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    main(parser.parse_args(sys.argv[1:]))
