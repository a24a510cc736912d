"""Steps that are programs of their own: test files against a real cluster, and the overhead benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.acceptance.step import Outcome, Say, Step


def tests(*paths: str) -> Step:
    """Runs test files, slow tests too; passes if tests ran and none failed or was skipped."""

    def run(folder: Path, say: Say) -> Outcome:
        report = folder / "report.xml"
        say(f"pytest {' '.join(paths)}")
        with (folder / "pytest.log").open("wb") as log:
            command = [sys.executable, "-m", "pytest", *paths, f"--junitxml={report}"]
            status = subprocess.run(command, stdout=log, stderr=log).returncode
        if not report.exists():
            return Outcome(False, f"pytest ended with {status} before any test; see {log.name}")
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None, "pytest writes one testsuite"
        counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
        bad = [
            f"{case.get('name')}: {problem.get('message', '')[:300]}"
            for case in suite.iter("testcase")
            for problem in (*case.findall("failure"), *case.findall("error"))
        ]
        passed = status == 0 and counts["tests"] > 0 and counts["skipped"] == 0
        summary = ", ".join(f"{count} {name}" for name, count in counts.items())
        return Outcome(passed, summary, counts | {"problems": bad})

    return run


def overhead(folder: Path, say: Say) -> Outcome:
    """``benchmarks.overhead`` on both proxies with its own bounds."""
    output = folder / "overhead.json"
    command = [sys.executable, "-m", "benchmarks.overhead", "--proxy", "both", "--output", str(output)]
    status = subprocess.run(command).returncode
    if not output.exists():
        return Outcome(False, f"benchmarks.overhead ended with {status} before it measured")
    report = json.loads(output.read_text())
    found = [
        f"{proxy}: {each['latency_ms']['ours'] - each['latency_ms']['theirs']:+.2f} ms, "
        f"{each['cpu_ms']['ours'] - each['cpu_ms']['theirs']:+.2f} CPU-ms"
        for proxy, each in report["proxies"].items()
    ]
    return Outcome(status == 0, "; ".join(found), report)
