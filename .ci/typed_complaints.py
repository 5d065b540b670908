"""Whether a type checker complained of the lines that are marked as wrong, and of no other: its JSON, and the program."""

import json
import sys
from pathlib import Path

found, program = (
    json.loads(Path(sys.argv[1]).read_text()),
    Path(sys.argv[2]).read_text().splitlines(),
)
complaints = [
    (one["range"]["start"]["line"], one["message"]) for one in found["generalDiagnostics"]
]
wrong = {k for k, line in enumerate(program) if "# wrong" in line}
assert wrong and {line for line, _ in complaints} == wrong, complaints
assert all("num_samples" in message for _, message in complaints), complaints
print(f"{len(program)} lines, of which {len(wrong)} is wrong, and is said to be.")
