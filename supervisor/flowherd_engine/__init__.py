"""The embedded engine: Kruxia Flow's worker API on SQLite, for first use, tests and demos only.

`serve.serve(EngineSettings(…))` runs it as a program; `engine.Engine` and `app.build_app` embed it in a test.
Known differences from the server are listed in `tests/contract/differences.toml`.
"""
