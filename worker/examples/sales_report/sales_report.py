"""A report with pandas; flowherd.toml runs it in isolates with a memory limit."""

from pathlib import Path

import pandas as pd

from flowherd import ActivityError, Registry

registry = Registry()


@registry.activity
def sales_report(path: Path) -> dict[str, object]:
    """Sums a CSV file with the columns day, shop and cents, by month and shop."""
    try:
        sales = pd.read_csv(path, parse_dates=["day"])
    except ValueError as error:
        raise ActivityError(str(error), code="BAD_CSV", retryable=False) from error
    sales["month"] = sales["day"].dt.strftime("%Y-%m")
    totals = sales.pivot_table("cents", index="month", columns="shop", aggfunc="sum", fill_value=0)
    return {"rows": len(sales), "cents": totals.to_dict(orient="index")}
