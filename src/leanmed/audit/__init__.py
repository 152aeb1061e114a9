"""Copies of photographs: which images show the same one, and what that does to labels and splits.

```python
found = audit([("a.png", Path("a.png")), ("b.png", Path("b.png"))], cache=Path("cache"))
found.groups  # image -> first image of its group
```
`leanmed.audit.writing.write_findings` turns the findings into files.
"""

from leanmed.audit.conflicts import Conflict, find_conflicts
from leanmed.audit.engine import audit
from leanmed.audit.findings import Findings, Outlier, Pair
from leanmed.audit.split import Leaked, LeakedPair, SplitFindings, split_check

GROUPS_VERSION = 2  # raise it when the same images come to have other groups, or masks to contradict each other

__all__ = [
    "GROUPS_VERSION",
    "Conflict",
    "Findings",
    "Leaked",
    "LeakedPair",
    "Outlier",
    "Pair",
    "SplitFindings",
    "audit",
    "find_conflicts",
    "split_check",
]
