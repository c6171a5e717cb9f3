"""Where the time of a compiled program goes: by file of this package, and by operation."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData

PACKAGE = Path(__file__).parents[1]
NETWORK = PACKAGE / "models" / "network.py"  # on the stack of every operation of a model, so it tells nothing


class Shares(NamedTuple):
    """Where the time of one call goes, the largest share first."""

    by_file: dict[str, float]  # seconds of each file of the package, forward and backward pass apart
    operations: list[dict[str, object]]  # the ten longest: name, place in the package, (first) result, milliseconds


class Origin(NamedTuple):
    """Where an operation comes from, and what it computes."""

    file: str  # of the package, or "elsewhere"
    line: int
    suffix: str  # " (gradient)" in the backward pass, else empty
    result: str  # type and shape of its (first) result


def read_table(text: str, title: str) -> dict[int, str]:
    """One of the numbered tables at the head of a compiled program: {number: entry}."""
    section = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return {int(number): entry for number, entry in (line.split(" ", 1) for line in lines)}


def find_origins(compiled: jax.stages.Compiled) -> dict[str, Origin]:
    """The innermost line of this package that each operation comes from."""
    text = compiled.as_text()
    files = {number: Path(entry.strip('"')) for number, entry in read_table(text, "FileNames").items()}
    places, parents = {}, {}
    locations = read_table(text, "FileLocations")
    for frame, entry in read_table(text, "StackFrames").items():
        location, above = map(int, re.findall(r"=(\d+)", entry))
        file, _, line = map(int, re.findall(r"=(\d+)", locations[location])[:3])
        places[frame], parents[frame] = (files[file], line), above - 1  # 0: there is none above

    def place(frame: int) -> tuple[Path, int]:
        while frame in places:
            file, line = places[frame]
            if file.is_relative_to(PACKAGE) and file != NETWORK:
                return file, line
            frame = parents[frame]
        return Path("elsewhere"), 0

    origins = {}
    for name, rest in re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", text, re.MULTILINE):
        frame = re.search(r"stack_frame_id=(\d+)", rest)  # the compiler's own operations have none
        file, line = place(int(frame[1])) if frame else (Path("elsewhere"), 0)
        suffix = " (gradient)" if "transpose(" in rest else ""
        origins[name] = Origin(file.name, line, suffix, re.match(r"\(?([\w\[\],]*)", rest)[1])
    return origins


def profile_calls(compiled: jax.stages.Compiled, call: Callable[[], object], folder: Path, calls: int = 3) -> Shares:
    """Traces a few calls of a compiled program, leaves the trace in ``folder``, and adds up the times of operations.

    ``call`` must run ``compiled`` and nothing else. On a GPU operations are kernels; a fused one counts for the file
    that its last part comes from.
    """
    jax.block_until_ready(call())
    with jax.profiler.trace(str(folder)):
        for _ in range(calls):
            jax.block_until_ready(call())
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    origins, seconds = find_origins(compiled), Counter()
    for plane in ProfileData.from_file(str(newest)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op", event.name)  # a GPU's kernels carry the operation's name
                if name in origins:
                    seconds[name] += event.duration_ns * 1e-9 / calls
    by_file: Counter = Counter()
    for name, value in seconds.items():
        by_file[origins[name].file + origins[name].suffix] += value
    longest = [
        {"operation": name, "place": f"{at.file}:{at.line}{at.suffix}", "result": at.result, "ms": value * 1e3}
        for name, value in seconds.most_common(10)
        for at in [origins[name]]
    ]
    return Shares(dict(by_file.most_common()), longest)
