"""Plain vLLM, as the reference: no plugin, no MyGO, one prompt after the other, greedy.

    python -m benchmarks.acceptance.plain_vllm JOB RESULT

JOB: JSON with ``engine`` (arguments of vllm.LLM), ``prompts`` (lists of token ids) and ``max_tokens``.
RESULT: per prompt ``token_ids`` and ``gaps``, the logprob of the best token minus the second best's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    engine = LLM(**job["engine"])
    sampling = SamplingParams(temperature=0.0, max_tokens=job["max_tokens"], logprobs=5)
    results: list[dict[str, Any]] = []
    for number, token_ids in enumerate(job["prompts"], 1):
        # one at a time: the reference has no neighbours in its batch
        output = engine.generate([TokensPrompt(prompt_token_ids=token_ids)], sampling, use_tqdm=False)
        completion = output[0].outputs[0]
        results.append(
            {
                "token_ids": list(completion.token_ids),
                "gaps": [_gap(each) for each in completion.logprobs or ()],
            }
        )
        if number % 10 == 0:
            print(f"plain vLLM: {number} of {len(job['prompts'])} prompts", flush=True)
    Path(sys.argv[2]).write_text(json.dumps(results))


def _gap(alternatives: dict[int, Any]) -> float:
    first, second = sorted((each.logprob for each in alternatives.values()), reverse=True)[:2]
    return float(first - second)


if __name__ == "__main__":
    main()
