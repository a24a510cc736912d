"""The load: streamed requests one after the other over one connection, in a process of its own.

Reads one order per line from standard input (``{"path", "body", "first", "requests"}``), answers with
one line of measured seconds. Imports little, so that its own cost stays small and even.
"""

from __future__ import annotations

import http.client
import json
import sys
import time

from benchmarks.control_plane.workload import NUMBER, check

TIMEOUT_S = 60.0


def main() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=TIMEOUT_S)
    for line in sys.stdin:
        order = json.loads(line)
        total_s: list[float] = []
        first_s: list[float] = []
        for number in range(order["first"], order["first"] + order["requests"]):
            body = order["body"].replace(NUMBER, f"{number:0{len(NUMBER)}d}").encode()
            started = time.perf_counter()
            connection.request("POST", order["path"], body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read(1)
            first = time.perf_counter()
            answer += response.read()
            ended = time.perf_counter()
            if response.status != 200:
                raise SystemExit(f"{order['path']} answered {response.status}: {answer[:1000]!r}")
            check(answer)
            total_s.append(ended - started)
            first_s.append(first - started)
        print(json.dumps({"total_s": total_s, "first_s": first_s}), flush=True)


if __name__ == "__main__":
    main()
