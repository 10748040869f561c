"""Real programs for tests, yours and ours: an embedded engine and a supervisor; they judge nothing."""

from flowherd_supervisor.testkit.engine import EngineProgram
from flowherd_supervisor.testkit.host import SupervisorProgram
from flowherd_supervisor.testkit.programs import eventually

__all__ = ["EngineProgram", "SupervisorProgram", "eventually"]
