"""`python -m flowherd_supervisor` is `flowherd`."""

from flowherd_supervisor.cli.main import main

main()
