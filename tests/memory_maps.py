"""What of a mapped file is in memory, from Linux's /proc."""

from pathlib import Path

SMAPS = Path("/proc/self/smaps")


def resident(path: Path) -> int:
    """Return how many bytes of a file are mapped into this process and in memory."""
    total, at_file = 0, False
    for line in SMAPS.read_text().splitlines():
        if line[0] in "0123456789abcdef":  # an address: the next mapping
            at_file = line.endswith(str(path))
        elif at_file and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
