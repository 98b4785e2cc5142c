"""Prints the commands of the README's ```bash blocks, one a line, in order: `python tests/readme.py`."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / "README.md"


def commands() -> list[str]:
    """Each command on one line; comments are left out, continued lines are joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    without_comments = (re.sub(r"\s+# .*$", "", line).strip() for line in lines)
    return [line for line in without_comments if line and not line.startswith("#")]


if __name__ == "__main__":
    print("\n".join(commands()))
