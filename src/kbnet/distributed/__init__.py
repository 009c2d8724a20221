"""Restores many images on several processes or machines with Ray Data.

    names, folders, URLs --plan_rows--> Row, Row, ... --restore_rows--> Outcome, Outcome, ...

Only names pass through Ray: each worker reads its images directly, restores them one at a time, and writes the results.
So a job needs memory for one image per worker, however many images there are. Requires the extra `ray`, except for
planning local files.
"""

from kbnet.distributed.planning import Row, plan_rows
from kbnet.distributed.running import Outcome, Settings, error_table, restore_rows

__all__ = ["Outcome", "Row", "Settings", "error_table", "plan_rows", "restore_rows"]
