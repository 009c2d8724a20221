"""Many pictures on many processes or machines, by Ray Data, with the same Restorer inside.

    names, folders, URLs --plan_rows--> Row, Row, ... --restore_rows--> Outcome, Outcome, ...

Only names go through Ray; each worker reads its pictures from where they lie, restores them one at a time and writes
them where they belong. So a job needs memory for one picture a worker, however many there are. Needs the extra `ray`,
but for planning local files.
"""

from kbnet.distributed.planning import Row, plan_rows
from kbnet.distributed.running import Outcome, Settings, error_table, restore_rows

__all__ = ["Outcome", "Row", "Settings", "error_table", "plan_rows", "restore_rows"]
