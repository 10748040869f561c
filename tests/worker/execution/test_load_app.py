"""`module:attr` in all its shapes, and what is said when it is wrong."""

import contextlib
import sys
import textwrap

import pytest

from flowherd import AppImportError, ConfigurationError
from flowherd.execution.load_app import choose_worker_type, load_app


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Writes a module and loads an attribute of it; modules and paths are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def load(text, attribute="", name="users_app"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return load_app(f"{name}:{attribute}" if attribute else name, tmp_path)

    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


OURS = """
    from flowherd import Registry, activity
    registry = Registry()

    @registry.activity
    async def one(): ...

    @activity(worker="py-ml")
    def two(): ...

    class Three:
        name = "three"
        async def execute(self, params, ctx): ...

    listed = [one, two, Three()]
    holder = Three
    number = 3
    nothing = Registry()
    def plain(): ...
"""

STOCK = """
    import asyncio
    from kruxiaflow.worker import ActivityRegistry, WorkerConfig, WorkerManager, activity

    @activity()
    async def greet(params, ctx): ...

    registry = ActivityRegistry()
    registry.register(greet, "py-std")
    registry.register(greet, "py-ml")

    async def main():
        config = WorkerConfig()
        manager = WorkerManager(config, registry)
        await manager.run_until_shutdown()

    def sync_main():
        try:
            asyncio.run(main())
        except Exception:
            raise SystemExit(1)

    async def patient_main():
        manager = WorkerManager(config=WorkerConfig(), registry=registry)
        try:
            await manager.start()
            await asyncio.Event().wait()
        finally:
            await manager.stop()

    async def two_managers():
        other = ActivityRegistry()
        other.register(greet, "py-data")
        managers = [WorkerManager(WorkerConfig(), r) for r in (registry, other)]
        await asyncio.gather(*(m.run_until_shutdown() for m in managers))

    def idle_main(): ...
    def broken_main():
        WorkerManager(None, registry)
        raise OSError("no database")
    def handler(params, ctx): ...
"""


@pytest.mark.parametrize(
    ("attribute", "names"),
    [("registry", ("one",)), ("listed", ("one", "two", "three")), ("", ("one", "two")), ("two", ("two",))],
)
def test_an_app_of_ours_is_a_registry_a_list_a_module_or_one_activity(app, attribute, names):
    assert app(OURS, attribute).registry.names() == names


@pytest.mark.parametrize("attribute", ["registry", "main", "sync_main", "patient_main"])
def test_an_app_of_the_stock_sdk_is_its_registry_or_its_own_main(app, attribute, monkeypatch):
    """Nothing polls, and credentials the engine does not ask for need not be set."""
    for name in ("API_URL", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"KRUXIAFLOW_{name}", raising=False)
    loaded = app(STOCK, attribute)
    assert loaded.registry.names() == ("greet",)
    assert loaded.worker_types == ("py-std", "py-ml")


@pytest.mark.parametrize("attribute", ["greet", ""])
def test_one_stock_activity_or_a_module_of_them_fits_any_type(app, attribute):
    loaded = app(STOCK, attribute)
    assert (loaded.registry.names(), loaded.worker_types) == (("greet",), ())


def test_all_managers_of_one_main_are_found(app):
    assert app(STOCK, "two_managers").worker_types == ("py-std", "py-ml", "py-data")


def test_the_stock_manager_is_itself_again_afterwards(app, monkeypatch):
    from kruxiaflow.worker import WorkerManager

    before = WorkerManager.__init__, WorkerManager.start
    for attribute in ("main", "broken_main"):
        with contextlib.suppress(AppImportError):
            app(STOCK, attribute)
        assert (WorkerManager.__init__, WorkerManager.start) == before


def test_a_main_that_fails_before_it_starts_a_manager_has_failed_to_boot(app):
    with pytest.raises(AppImportError, match="OSError: no database"):
        app(STOCK, "broken_main")


@pytest.mark.parametrize(
    ("text", "attribute", "words"),
    [
        (STOCK, "idle_main", "without giving a registry"),
        (STOCK, "handler", "takes arguments"),
        (OURS, "registri", "did you mean registry"),
        (OURS, "number", "is a int: give a flowherd.Registry"),
        (OURS, "holder", r"such as three = Three\(\)"),
        (OURS, "nothing", "holds no activities"),
        (OURS, "plain.x.y", "has no 'x'"),
        ("x = 1", "", "holds no activities"),
        ("x = [1]", "x", "int is no activity"),
        ("from flowherd import activity\n@activity(offload='loop')\ndef f(): ...", "", "make it async def"),
    ],
)
def test_what_is_no_app_is_refused_with_a_remedy(app, text, attribute, words):
    """Exit code 2: the user has to change a flag or a name."""
    with pytest.raises(ConfigurationError, match=words):
        app(text, attribute)


@pytest.mark.parametrize("name", ["", ":x", ".rel:x", "folder/app.py:x"])
def test_names_of_another_shape_are_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match="must look like module:attr"):
        load_app(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [
        ("ok.py", "registry = Registry()", "did you mean ok:registry?"),
        ("ok.py:registry", "registry = Registry()", "did you mean ok:registry?"),
        ("ok.registry", "registry = Registry()", "did you mean ok:registry?"),
        ("./ok.py", "registry = Registry()", "did you mean ok:registry?"),
        ("sub/ok.py", "registry = Registry()", "did you mean ok:registry with --app-dir sub?"),
        ("ok.py", "mine: Registry = Registry()", "did you mean ok:mine?"),
        ("ok.mine", "from elsewhere import registry as mine", "did you mean ok:mine?"),
        ("ok.py", "async def main(): ...", "did you mean ok:main?"),
        ("ok.py", "@activity\ndef f(): ...", "did you mean ok?"),
        ("ok.py", "def f(:", "did you mean ok?"),
        ("gone.py", "", "did you mean gone:registry?"),
    ],
)
def test_a_file_or_a_dotted_name_is_answered_by_what_was_meant(name, text, meant, tmp_path):
    """The two forms that users try first; the message needs no import."""
    for folder in (tmp_path, tmp_path / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "ok.py").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_app(name, tmp_path)
    assert str(refused.value).endswith(meant)


def test_a_missing_module_is_no_import_error_and_close_ones_are_offered(app, tmp_path):
    (tmp_path / "orders.py").write_text("")
    with pytest.raises(ConfigurationError, match=r"no module 'order' .*did you mean orders"):
        load_app("order:registry", tmp_path)


def test_a_module_missing_inside_the_app_is_the_apps_failure(app):
    with pytest.raises(AppImportError, match="nowhere_to_be_found") as caught:
        app("import nowhere_to_be_found")
    assert "users_app.py" in caught.value.report


@pytest.mark.parametrize("line", ["raise SystemExit(1)", "1 / 0", "x = (", "raise BaseException"])
def test_a_module_that_raises_shows_the_users_frames_only(app, line):
    """Exit code 3, one traceback, none of ours or of the import system in it."""
    with pytest.raises(AppImportError) as caught:
        app(f"def deep():\n    pass\n{line}\n")
    assert "users_app.py" in caught.value.report
    assert "importlib" not in caught.value.report
    assert "load_app.py" not in caught.value.report


def test_causes_keep_their_frames(app):
    with pytest.raises(AppImportError) as caught:
        app("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('bad') from e\n")
    assert "ZeroDivisionError" in caught.value.report
    assert caught.value.report.endswith("ValueError: bad")


@pytest.mark.parametrize(
    ("attribute", "explicit", "chosen"),
    [("registry", None, "py-std"), ("two", None, "py-ml"), ("registry", "anything", "anything")],
)
def test_the_worker_type_is_the_explicit_one_else_the_only_one_else_py_std(app, attribute, explicit, chosen):
    loaded = app(OURS, attribute)
    assert choose_worker_type(loaded, explicit) == chosen
    assert [found.worker_type for found in loaded.for_type(chosen)] == [chosen]


@pytest.mark.parametrize("explicit", [None, "py-nlp"])
def test_several_types_and_none_of_them_chosen_are_listed(app, explicit):
    loaded = app(STOCK, "registry")
    with pytest.raises(ConfigurationError, match="py-std, py-ml"):
        choose_worker_type(loaded, explicit)
