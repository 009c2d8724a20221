"""The Python of docs/how-to/serve.md runs, from top to bottom."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"


def test_the_code_of_the_page_runs():
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) == 2
    exec(compile("\n".join(found), str(PAGE), "exec"), {})
