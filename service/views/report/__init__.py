"""The report of sweeps: one page that says what was found, how certain it is, and how it was found.

`make_report` makes the content, sections of blocks. Each format renders the same content: add one as a file with a
function that takes a `Report`. Add a section as a file in `sections/` with a function that takes a `SweepView` and
returns blocks, and list it in `SECTIONS`.
"""

from service.views.report.content import make_report
from service.views.report.formats import FORMATS, write_report

__all__ = ["FORMATS", "make_report", "write_report"]
