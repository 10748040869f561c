"""What can be an activity, under which name, and where it runs."""

import functools

import pytest

from flowherd import Registry, RegistryError, activity
from flowherd.sdk.activity_decorator import definition_of
from flowherd.sdk.activity_definition import Mode


def test_a_decorated_function_stays_callable_and_carries_its_definition():
    """Users call their handlers in their own tests; a decorator that wraps would get in the way."""

    @activity
    def double(n):
        return n * 2

    assert double(3) == 6
    assert definition_of(double).name == "double"


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, Mode.LOOP),
        ({"offload": "thread"}, Mode.THREAD),
        ({"offload_to_thread": True}, Mode.THREAD),
        ({"offload": "process"}, Mode.PROCESS),
        ({"offload": None}, Mode.LOOP),
        ({"offload": "loop"}, Mode.LOOP),
    ],
)
def test_an_async_handler_runs_on_the_loop_unless_it_is_moved(options, mode):
    """The table of worker/docs/execution.md: where each kind of handler runs."""

    @activity(**options)
    async def work(): ...

    assert definition_of(work).mode is mode


def test_a_plain_handler_runs_in_a_thread_because_it_would_block_the_loop():
    @activity()
    def work(): ...

    assert definition_of(work).mode is Mode.THREAD


def test_a_plain_handler_asked_onto_the_loop_is_refused_with_the_remedy():
    with pytest.raises(RegistryError, match=r"work, .*test_registry.py:\d+ .*make it async def"):

        @activity(offload="loop")
        def work(): ...


def test_two_contradicting_offloads_are_refused():
    with pytest.raises(RegistryError, match="contradict"):

        @activity(offload="process", offload_to_thread=True)
        async def work(): ...


def _generator():
    yield 1


async def _async_generator():
    yield 1


class _Generates:
    name = "generates"

    def execute(self, params):
        yield params


@pytest.mark.parametrize("handler", [_generator, _async_generator, _Generates()])
def test_generators_are_refused_because_an_activity_returns_once(handler):
    with pytest.raises(RegistryError, match="use return, not yield"):
        Registry().register(handler)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (42, "int is no activity"),
        (_Generates, "register an instance"),
        (lambda: 1, "needs a name"),
        (functools.partial(print), "needs a name"),
    ],
)
def test_what_is_no_activity_is_refused_with_words(handler, words):
    with pytest.raises(RegistryError, match=words):
        Registry().register(handler)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"max_concurrent": 0},
        {"timeout_s": "3"},
        {"name": " "},
        {"offload": "gpu"},
    ],
)
def test_senseless_options_are_refused(options):
    async def work(): ...

    with pytest.raises(RegistryError, match="work"):
        Registry().register(work, **options)


def test_a_misspelt_option_is_named():
    with pytest.raises(RegistryError, match="no option timeout"):

        @activity(timeout=3)
        async def work(): ...


def test_a_class_with_name_and_execute_is_an_activity():
    class Greet:
        name = "greet"

        async def execute(self, params, ctx):
            return {"hello": params["who"]}

    registry = Registry()
    registry.register(Greet())
    found = registry.lookup("greet")
    assert found is not None
    assert (found.mode, found.is_async) == (Mode.LOOP, True)


def test_a_name_that_is_taken_names_both_places():
    """The second one would silently win otherwise."""
    registry = Registry()

    @registry.activity
    async def work(): ...

    with pytest.raises(
        RegistryError, match=r"two activities are named 'work'.*test_registry.py:\d+.*test_registry.py:\d+"
    ):

        @registry.activity(name="work")
        async def other(): ...


def test_one_name_may_serve_several_worker_types():
    """As in the stock SDK, whose keys are `type.name`."""
    registry = Registry()

    async def work(): ...

    registry.register(work, "py-std")
    registry.register(work, "py-ml")
    assert registry.worker_types() == ("py-std", "py-ml")
    chosen = registry.for_type("py-ml").lookup("work")
    assert chosen is not None
    assert chosen.worker_type == "py-ml"


def test_an_activity_of_any_type_clashes_with_a_typed_one_of_its_name():
    registry = Registry()

    async def work(): ...

    registry.register(work)
    with pytest.raises(RegistryError, match="two activities"):
        registry.register(work, "py-ml")


def test_a_registry_narrowed_to_a_type_keeps_what_fits_any():
    registry = Registry()

    @registry.activity
    async def anywhere(): ...

    @registry.activity(worker="py-ml")
    async def train(): ...

    assert registry.for_type("py-std").names() == ("anywhere",)
    assert registry.for_type("py-ml").names() == ("anywhere", "train")


def test_lookup_of_an_unknown_or_empty_name_finds_nothing():
    registry = Registry()
    assert registry.lookup("") is None
    assert len(registry) == 0
    assert repr(registry) == "<Registry any type: empty>"


def test_a_built_in_cannot_be_decorated_but_registered():
    with pytest.raises(RegistryError, match=r"registry\.register"):
        activity(name="say")(print)


def test_configuration_moves_and_bounds_any_activity():
    """`[activities.work] offload = "thread"`: ours or the stock SDK's, without touching the app."""

    @activity(timeout_s=3)
    async def work(): ...

    @activity
    async def other(): ...

    configured = Registry.of([work, other]).configured({"work": {"offload": "thread", "max_concurrent": 2}})
    found = configured.lookup("work")
    assert (found.mode, found.max_concurrent, found.timeout_s) == (Mode.THREAD, 2, 3.0)
    assert configured.lookup("other") == definition_of(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wrok": {}}, r"\[activities.wrok\] configures no activity"),
        ({"work": {"offlaod": "thread"}}, "no option offlaod"),
        ({"work": {"name": "x"}}, "no option name"),
        ({"work": {"max_memory_mb": 100}}, 'needs offload="process"'),
        ({"work": {"offload": "process", "max_memory_mb": 0}}, "whole number of at least 1"),
        ({"work": {"offload": "loop"}}, "make it async def"),
        ({"work": {"max_concurrent": "2"}}, "whole number"),
    ],
)
def test_configuration_that_fits_nothing_is_refused(changes, words):
    def work(): ...

    with pytest.raises(RegistryError, match=words):
        Registry.of([work]).configured(changes)


@pytest.mark.parametrize("timeout_s", [float("inf"), float("nan"), 0, -1, 10**400, "5", True])
def test_a_limit_that_is_no_number_of_seconds_is_refused_where_it_is_written(timeout_s):
    """No timer can keep an endless limit, and the host's own would no longer hold."""
    with pytest.raises(RegistryError, match="timeout_s must be a number of seconds above 0"):

        @activity(timeout_s=timeout_s)
        def work(): ...

    with pytest.raises(RegistryError, match="timeout_s must be"):
        Registry.of([work_without_end]).configured({"work": {"timeout_s": timeout_s}})


@activity(name="work")
def work_without_end(): ...
